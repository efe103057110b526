"""The map from checkpoint tensors to parameters: layouts, prefixes and rejected checkpoints."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tgi.architectures import (
    MLP,
    Attention,
    Block,
    Branch,
    Embedding,
    Head,
    Layer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Router,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_map import placements, shard_axis, split, stored_shape, tensor_shapes
from tgi.errors import ModelError

HIDDEN, HEAD_DIM, NUM_EXPERTS, SIZE = 4, 2, 3, 5
QKV = tuple(f"decoder.layers.{{layer}}.attention.{part}.weight" for part in "qkv")
EXPERTS = "decoder.layers.{layer}.moe.experts"


def model(*, qkv: WeightRule, experts: tuple[WeightRule, ...], tied: bool = False) -> ModelSpec:
    """Return a spec with two layers, each with attention (4 query heads, 2 KV heads) and three
    experts.
    """
    attention = Attention(num_heads=4, num_kv_heads=2, head_dim=HEAD_DIM, scale=1.0)
    expert = MLP(intermediate_size=SIZE, activation="silu")
    mixture = MixtureOfExperts(
        num_experts=NUM_EXPERTS, experts_per_token=1, expert=expert, router=Router()
    )
    layer = Layer(
        blocks=tuple(Block(branches=(Branch(mixer=mixer),)) for mixer in (attention, mixture))
    )
    plain = {
        "embed": "embedding.weight",
        "head": "head.weight",
        "l.{layer}.o": "decoder.layers.{layer}.attention.o.weight",
        "l.{layer}.router": "decoder.layers.{layer}.moe.router.weight",
    }
    return ModelSpec(
        model_type="test",
        hidden_size=HIDDEN,
        vocab_size=7,
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=(layer, layer)),),
        head=Head(tied=tied),
        weights=(
            *(WeightRule(name=name, parameters=(parameter,)) for name, parameter in plain.items()),
            qkv,
            *experts,
        ),
        max_positions=0,
        prefixes=("m.", ""),
        ignored=("*.inv_freq",),
    )


GROUPED = WeightRule(name="l.{layer}.qkv", parameters=QKV, layout="grouped")
ROWS = WeightRule(name="l.{layer}.qkv", parameters=QKV)
BY_EXPERT = tuple(
    WeightRule(name=f"l.{{layer}}.e.{{expert}}.{part}", parameters=(f"{EXPERTS}.{part}.weight",))
    for part in ("gate", "up", "down")
)
STACKED = (
    WeightRule(
        name="l.{layer}.gate_up",
        parameters=(f"{EXPERTS}.gate.weight", f"{EXPERTS}.up.weight"),
        layout="alternating",
        transposed=True,
    ),
    WeightRule(name="l.{layer}.down", parameters=(f"{EXPERTS}.down.weight",)),
)


def names(spec: ModelSpec, prefix: str = "") -> list[str]:
    """Return the names of all tensors in a complete checkpoint of `spec`."""
    plain = ["embed", *([] if spec.head.tied else ["head"])]
    layered = [f"l.{layer}.{part}" for layer in range(2) for part in ("o", "router", "qkv")]
    if BY_EXPERT[0] in spec.weights:
        layered += [
            f"l.{i}.e.{e}.{part}"
            for i in range(2)
            for e in range(NUM_EXPERTS)
            for part in ("gate", "up", "down")
        ]
    else:
        layered += [f"l.{layer}.{part}" for layer in range(2) for part in ("gate_up", "down")]
    return [prefix + name for name in plain + layered]


def pieces(spec: ModelSpec, name: str, tensor: np.ndarray) -> dict[str, np.ndarray]:
    placement = next(item for item in placements(spec, names(spec)) if item.name == name)
    assert tensor.shape == stored_shape(placement)
    return split(tensor, placement, spec)


def test_grouped_rows_are_split_per_kv_head() -> None:
    spec = model(qkv=GROUPED, experts=BY_EXPERT)
    # Each head has two rows. The order of the heads is q0 q1 k0 v0 (group 0) q2 q3 k1 v1 (group 1).
    rows = np.arange(16)[:, None] * np.ones(HIDDEN, int)
    got = pieces(spec, "l.1.qkv", rows)
    assert {parameter: piece[:, 0].tolist() for parameter, piece in got.items()} == {
        "decoder.layers.1.attention.q.weight": [0, 1, 2, 3, 8, 9, 10, 11],
        "decoder.layers.1.attention.k.weight": [4, 5, 12, 13],
        "decoder.layers.1.attention.v.weight": [6, 7, 14, 15],
    }


def test_rows_are_split_by_parameter_without_a_copy() -> None:
    spec = model(qkv=ROWS, experts=BY_EXPERT)
    rows = np.arange(16)[:, None] * np.ones(HIDDEN, int)
    got = pieces(spec, "l.0.qkv", rows)
    assert [piece[:, 0].tolist() for piece in got.values()] == [
        list(range(8)),
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]
    assert all(piece.base is rows for piece in got.values())


def test_rows_of_stacked_experts_alternate_after_the_expert_axis() -> None:
    spec = model(qkv=ROWS, experts=STACKED)
    columns = np.arange(2 * SIZE) * np.ones((NUM_EXPERTS, HIDDEN, 1), int)
    gate, up = pieces(spec, "l.0.gate_up", columns).values()
    assert gate.shape == up.shape == (NUM_EXPERTS, SIZE, HIDDEN)
    assert gate[2, :, 3].tolist() == [0, 2, 4, 6, 8]
    assert up[2, :, 3].tolist() == [1, 3, 5, 7, 9]


def test_flat_experts_are_stacked() -> None:
    rules = (
        *(
            WeightRule(
                name=f"l.{{layer}}.{part}", parameters=(f"{EXPERTS}.{part}.weight",), layout="flat"
            )
            for part in ("gate", "up")
        ),
        WeightRule(
            name="l.{layer}.down",
            parameters=(f"{EXPERTS}.down.weight",),
            layout="flat",
            transposed=True,
        ),
    )
    spec = model(qkv=ROWS, experts=rules)
    stored_names = [name for name in names(spec) if "gate_up" not in name]
    stored_names += [f"l.{layer}.{part}" for layer in range(2) for part in ("gate", "up")]
    found = {item.name: item for item in placements(spec, stored_names)}
    stored = np.arange(NUM_EXPERTS * SIZE * HIDDEN).reshape(NUM_EXPERTS * SIZE, HIDDEN)
    for part in ("gate", "down"):
        placement = found[f"l.1.{part}"]
        assert stored_shape(placement) == stored.shape
        (piece,) = split(stored, placement, spec).values()
        expected = stored.reshape(NUM_EXPERTS, SIZE, HIDDEN)
        np.testing.assert_array_equal(
            piece, expected.swapaxes(1, 2) if part == "down" else expected
        )


def test_each_head_has_its_own_placement() -> None:
    norm = Norm(kind="layer", eps=1e-5)
    attention = Attention(
        num_heads=2, num_kv_heads=1, head_dim=3, scale=1.0, q_norm=norm, qk_norm_over="each_head"
    )
    layer = Layer(blocks=(Block(branches=(Branch(mixer=attention),)),))
    parameter = "decoder.layers.{layer}.attention"
    plain = {
        "embed": "embedding.weight",
        **{f"l.{{layer}}.{part}": f"{parameter}.{part}.weight" for part in "qkvo"},
    }
    spec = ModelSpec(
        model_type="test",
        hidden_size=HIDDEN,
        vocab_size=7,
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=(layer,)),),
        head=Head(tied=True),
        weights=(
            *(WeightRule(name=name, parameters=(filled,)) for name, filled in plain.items()),
            WeightRule(name="l.{layer}.norms.{head}", parameters=(f"{parameter}.q_norm.weight",)),
        ),
        max_positions=0,
    )
    assert tensor_shapes(spec)["decoder.layers.0.attention.q_norm.weight"] == (2, 3)
    found = placements(
        spec, ["embed", *(f"l.0.{part}" for part in "qkvo"), "l.0.norms.0", "l.0.norms.1"]
    )
    assert [(item.name, item.expert, stored_shape(item)) for item in found[-2:]] == [
        ("l.0.norms.0", 0, (3,)),
        ("l.0.norms.1", 1, (3,)),
    ]


def test_each_expert_has_its_own_placement() -> None:
    spec = model(qkv=ROWS, experts=BY_EXPERT)
    found = [
        item
        for item in placements(spec, names(spec))
        if item.parameters == ("decoder.layers.1.moe.experts.down.weight",)
    ]
    assert [(item.name, item.expert, item.shapes) for item in found] == [
        (f"l.1.e.{expert}.down", expert, ((HIDDEN, SIZE),)) for expert in range(NUM_EXPERTS)
    ]
    assert tensor_shapes(spec)["decoder.layers.1.moe.experts.down.weight"] == (
        NUM_EXPERTS,
        HIDDEN,
        SIZE,
    )


@pytest.mark.parametrize("prefix", ["", "m."])
def test_prefixes(prefix: str) -> None:
    spec = model(qkv=ROWS, experts=STACKED)
    assert {item.name for item in placements(spec, names(spec, prefix))} == set(names(spec, prefix))


def test_ignored_and_tied_tensors_are_skipped() -> None:
    spec = model(qkv=ROWS, experts=STACKED, tied=True)
    found = placements(spec, [*names(spec), "l.0.rotary.inv_freq", "head"])
    assert {item.name for item in found} == set(names(spec))


def test_missing_tensor_is_reported_with_its_parameter() -> None:
    spec = model(qkv=ROWS, experts=STACKED)
    with pytest.raises(
        ModelError, match=r"no tensor `l\.1\.o` \(for decoder\.layers\.1\.attention\.o\.weight\)"
    ):
        placements(spec, [name for name in names(spec) if name != "l.1.o"])


def test_extra_tensors_are_reported() -> None:
    spec = model(qkv=ROWS, experts=STACKED)
    extra = [f"l.0.extra.{index}" for index in range(5)]
    with pytest.raises(ModelError, match=r"`l\.0\.extra\.0`, .* and 2 more"):
        placements(spec, [*names(spec), *extra])


def test_second_head_of_an_untied_model_is_rejected() -> None:
    spec = model(qkv=ROWS, experts=STACKED)
    with pytest.raises(ModelError, match=r"does not have: `head`"):
        placements(spec, [*names(spec), "m.head"])


def test_parameter_without_a_rule_is_reported() -> None:
    spec = model(qkv=ROWS, experts=STACKED[:1])
    with pytest.raises(
        ModelError,
        match=r"has no checkpoint tensor for `decoder\.layers\.0\.moe\.experts\.down\.weight`",
    ):
        placements(
            spec,
            [name for name in names(model(qkv=ROWS, experts=STACKED)) if not name.endswith("down")],
        )


def test_parameter_filled_twice_is_reported() -> None:
    twice = WeightRule(
        name="other.{layer}", parameters=("decoder.layers.{layer}.attention.o.weight",)
    )
    spec = model(qkv=ROWS, experts=STACKED)
    spec = msgspec.structs.replace(spec, weights=(*spec.weights, twice))
    with pytest.raises(ModelError, match=r"attention\.o\.weight twice"):
        placements(spec, [*names(spec), "other.0", "other.1"])


@pytest.mark.parametrize("experts", [BY_EXPERT, STACKED])
def test_the_rule_whose_tensor_is_present_is_used(experts: tuple[WeightRule, ...]) -> None:
    stored = names(model(qkv=ROWS, experts=experts))
    spec = model(qkv=ROWS, experts=STACKED + BY_EXPERT)
    assert sorted(placement.name for placement in placements(spec, stored)) == sorted(stored)


@pytest.mark.parametrize("absent", ["l.1.e.2.up", "l.1.qkv"])
def test_a_tensor_that_no_other_rule_replaces_is_missing(absent: str) -> None:
    stored = names(model(qkv=ROWS, experts=BY_EXPERT))
    stored.remove(absent)
    with pytest.raises(ModelError, match=f"has no tensor `{absent}`"):
        placements(model(qkv=ROWS, experts=STACKED + BY_EXPERT), stored)


def test_pieces_are_multiplied_by_the_factors_of_their_rule() -> None:
    rule = msgspec.structs.replace(ROWS, factors=(2.0, 1.0, -0.5))
    spec = model(qkv=rule, experts=BY_EXPERT)
    placement = next(item for item in placements(spec, names(spec)) if item.name == "l.0.qkv")
    stored = np.arange(16 * HIDDEN, dtype=np.float32).reshape(16, HIDDEN)
    pieces = split(stored, placement, spec)
    q, k, v = (pieces[f"decoder.layers.0.attention.{part}.weight"] for part in "qkv")
    np.testing.assert_array_equal(q, 2 * stored[:8])
    np.testing.assert_array_equal(k, stored[8:12])
    np.testing.assert_array_equal(v, -0.5 * stored[12:])
    assert v.dtype == np.float32


def test_tensor_of_the_wrong_shape_is_reported() -> None:
    spec = model(qkv=ROWS, experts=STACKED)
    placement = next(item for item in placements(spec, names(spec)) if item.name == "l.0.qkv")
    with pytest.raises(
        ModelError, match=r"`l\.0\.qkv` has shape \[4, 16\], but config\.json requires \[16, 4\]"
    ):
        split(np.zeros((4, 16)), placement, spec)


@pytest.mark.parametrize(
    ("parameter", "axis"),
    [
        ("embedding.weight", 0),
        ("embedding.positions.weight", None),
        ("head.weight", 0),
        ("decoder.layers.0.attention.q.weight", 0),
        ("decoder.layers.0.attention.k.bias", 0),
        ("decoder.layers.0.attention.o.weight", 1),
        ("decoder.layers.0.attention.o.bias", None),
        ("decoder.layers.0.attention.sinks", 0),
        ("decoder.layers.0.attention.norm.weight", None),
        ("decoder.layers.0.attention.q_norm.weight", None),
        ("decoder.layers.0.mlp.gate.weight", 0),
        ("decoder.layers.0.mlp.down.weight", 1),
        ("decoder.layers.0.moe.router.weight", None),
        ("decoder.layers.0.moe.experts.up.weight", 1),
        ("decoder.layers.0.moe.experts.down.weight", 2),
        ("decoder.layers.0.moe.shared.down.weight", 1),
        ("decoder.layers.0.latent_attention.kv_a.weight", None),
        ("decoder.layers.0.latent_attention.kv_b.weight", 0),
        ("decoder.layers.0.attention.relative_bias.weight", 1),
    ],
)
def test_shard_axis(parameter: str, axis: int | None) -> None:
    assert shard_axis(parameter) == axis
