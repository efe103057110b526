"""Each operation of the table compared with its definition in float64."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.backends.paged_batch import metadata_of
from tgi.architectures import Activation, DynamicScaling, LongRopeScaling, Rope, Router
from tgi_torch import ops
from tgi_torch.attention.alibi import alibi_slopes
from tgi_torch.attention.key_range import KeyRange
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.attention.paged import AttentionSettings, paged_attention, plan_attention
from tgi_torch.model.mixture_of_experts import route
from tgi_torch.model.rotary import RotaryTable, Rotation

BLOCK_SIZE = 4
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, V_HEAD_DIM = 6, 2, 8, 5


def attend_by_definition(
    query: Tensor, key: Tensor, value: Tensor, settings: AttentionSettings, num_visible: int
) -> Tensor:
    """Attention of one query [H, D] at the last position of key [L, K, D] and value [L, K, Dv], to
    the last `num_visible` keys.

    Computes one head at a time.
    """
    length = key.shape[0]
    visible = range(length - num_visible, length)
    out = []
    for head in range(NUM_HEADS):
        kv_head = head // (NUM_HEADS // NUM_KV_HEADS)
        scores = []
        for position in visible:
            score = float(query[head] @ key[position, kv_head]) * settings.scale
            if settings.softcap is not None:
                score = settings.softcap * math.tanh(score / settings.softcap)
            if settings.alibi_slopes is not None:
                score += float(settings.alibi_slopes[head]) * (position - (length - 1))
            scores.append(score)
        total = sum(math.exp(score) for score in scores)
        if settings.sinks is not None:
            total += math.exp(float(settings.sinks[head]))
        out.append(
            sum(
                math.exp(s) / total * value[p, kv_head]
                for s, p in zip(scores, visible, strict=True)
            )
        )
    return torch.cat(out)


def num_visible(key_range: KeyRange, position: int) -> int:
    """Number of keys to which the query at `position` attends."""
    if key_range.chunk is not None:
        return position % key_range.chunk + 1
    return position + 1 if key_range.window is None else min(key_range.window, position + 1)


SETTINGS = {
    "plain": AttentionSettings(scale=0.3),
    "softcap": AttentionSettings(scale=0.9, softcap=1.5),
    "alibi": AttentionSettings(scale=0.3, alibi_slopes=alibi_slopes(NUM_HEADS)),
    "sinks": AttentionSettings(scale=0.3, sinks=torch.linspace(-1, 1, NUM_HEADS)),
}


@pytest.mark.parametrize(
    "key_range", [KeyRange(), KeyRange(1), KeyRange(5), KeyRange(chunk=5)], ids=str
)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_paged_attention(settings: AttentionSettings, key_range: KeyRange) -> None:
    generator = torch.Generator().manual_seed(1)
    rng = random.Random(2)
    # (computed tokens, new tokens): decode rows near block boundaries, a first and a later prefill
    # chunk, and a prefill of a single token.
    work = [(3, 1), (0, 9), (4, 1), (15, 1), (6, 7), (0, 1), (7, 2)]
    blocks = rng.sample(range(1, 40), 39)
    rows = [
        ([blocks.pop() for _ in range(-(-(past + new) // BLOCK_SIZE))], past, new)
        for past, new in work
    ]
    metadata = metadata_of(rows, BLOCK_SIZE)
    cache = LayerCache(
        key=torch.full((40, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM), float("nan")),
        value=torch.full((40, BLOCK_SIZE, NUM_KV_HEADS, V_HEAD_DIM), float("nan")),
    )
    query, expected = [], []
    for table, past, new in rows:
        key = torch.randn(past + new, NUM_KV_HEADS, HEAD_DIM, generator=generator)
        value = torch.randn(past + new, NUM_KV_HEADS, V_HEAD_DIM, generator=generator)
        slots = torch.tensor(
            [table[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(past + new)]
        )
        ops.write_kv(key, value, cache, slots)
        for position in range(past, past + new):
            query.append(torch.randn(NUM_HEADS, HEAD_DIM, generator=generator))
            seen = slice(0, position + 1)
            expected.append(
                attend_by_definition(
                    query[-1].double(),
                    key[seen].double(),
                    value[seen].double(),
                    settings,
                    num_visible(key_range, position),
                )
            )
        # Blocks outside the window may belong to other sequences and contain anything.
        for position in range(past + 1 - num_visible(key_range, past)):
            cache.key.view(-1, NUM_KV_HEADS, HEAD_DIM)[slots[position]] = float("nan")
            cache.value.view(-1, NUM_KV_HEADS, V_HEAD_DIM)[slots[position]] = float("nan")
    actual = paged_attention(
        torch.stack(query), cache, plan_attention(metadata, BLOCK_SIZE, key_range), settings
    )
    torch.testing.assert_close(actual, torch.stack(expected).float(), atol=1e-5, rtol=1e-5)


def test_alibi_slopes() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    twelve = [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    assert alibi_slopes(12).tolist() == pytest.approx(twelve)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_multiplies_pairs_as_complex_numbers(interleaved: bool) -> None:
    x = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(3))
    angles = torch.tensor([[0.0, 0.1, 0.2], [1.0, 2.0, 3.0], [-1.0, 0.5, 9.0]]).unsqueeze(1)
    expected = x.clone()
    pairs = [(0, 1), (2, 3), (4, 5)] if interleaved else [(0, 3), (1, 4), (2, 5)]
    for index, (first, second) in enumerate(pairs):
        turned = torch.complex(x[..., first], x[..., second]) * torch.polar(
            torch.ones(3, 1), angles[..., index]
        )
        expected[..., first], expected[..., second] = turned.real, turned.imag
    ops.rotary(x, Rotation(angles.cos(), angles.sin()), interleaved)
    torch.testing.assert_close(x, expected)


def test_rotary_table_grows_and_keeps_its_values() -> None:
    table = RotaryTable(Rope(theta=100.0, rotary_dim=4), torch.device("cpu"))
    early = table.lookup(metadata_of([([0], 0, 3)], 16))
    late = table.lookup(metadata_of([([0] * 1000, 4999, 1), ([0], 0, 3)], 16))
    torch.testing.assert_close(late.cos[1:], early.cos, atol=0, rtol=0)
    torch.testing.assert_close(
        late.cos[0, 0], torch.tensor([4999.0, 499.9]).cos(), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        late.sin[0, 0], torch.tensor([4999.0, 499.9]).sin(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    "scaling",
    [
        DynamicScaling(factor=2.0, original_max_positions=8),
        LongRopeScaling(
            short_factor=(1.0, 2.0),
            long_factor=(3.0, 5.0),
            original_max_positions=8,
            attention_factor=1.2,
        ),
    ],
    ids=["dynamic", "longrope"],
)
def test_frequencies_depend_on_the_length_of_the_row(
    scaling: DynamicScaling | LongRopeScaling,
) -> None:
    rope = Rope(theta=100.0, rotary_dim=4, scaling=scaling)
    short, border, long = ([0, 1], 2, 3), ([2, 3], 7, 1), ([4, 5, 6, 7], 7, 4)
    alone = [
        RotaryTable(rope, torch.device("cpu")).lookup(metadata_of([row], BLOCK_SIZE))
        for row in (short, border, long)
    ]
    together = RotaryTable(rope, torch.device("cpu")).lookup(
        metadata_of([short, border, long], BLOCK_SIZE)
    )
    torch.testing.assert_close(together.cos, torch.cat([rotation.cos for rotation in alone]))
    torch.testing.assert_close(together.sin, torch.cat([rotation.sin for rotation in alone]))
    # The second row ends at the original length. The third has other frequencies at the same
    # positions.
    assert not torch.allclose(alone[1].cos[0], alone[2].cos[0])


def test_norms() -> None:
    generator = torch.Generator().manual_seed(4)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 3, 5), (5,), (5,)))
    normal = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(
        ops.rms_norm(x, weight, 1e-3).double(), normal * weight, atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(
        ops.rms_norm_unit_offset(x, weight, 1e-3).double(),
        normal * (1 + weight),
        atol=1e-6,
        rtol=1e-6,
    )
    centred = x.double() - x.double().mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(
        ops.layer_norm(x, weight, bias, 1e-3).double(), scaled * weight + bias, atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(
        ops.layer_norm(x, None, None, 1e-3).double(), scaled, atol=1e-6, rtol=1e-6
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


ACTIVATIONS: dict[Activation, Callable[[float], float]] = {
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "gelu_quick": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
    "silu_clamped": lambda x: min(x, 7.0) * sigmoid(1.702 * min(x, 7.0)),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: Activation) -> None:
    x = torch.linspace(-9, 9, 19)
    up = torch.linspace(10, -10, 19)
    by_definition = torch.tensor([ACTIVATIONS[kind](value) for value in x.tolist()])
    torch.testing.assert_close(ops.activation(x, kind), by_definition, atol=1e-5, rtol=1e-5)
    factor = up.clamp(-7, 7) + 1 if kind == "silu_clamped" else up
    torch.testing.assert_close(
        ops.gated_activation(torch.cat([x, up]), kind), by_definition * factor, atol=1e-4, rtol=1e-5
    )


def test_router_chooses_within_the_best_groups() -> None:
    router = Router(
        score="sigmoid",
        correction_bias=True,
        num_groups=2,
        groups_per_token=1,
        group_top=2,
        scale=2.5,
    )
    logits = torch.tensor([[4.0, -4.0, 1.0, 1.5]])
    correction = torch.tensor([0.0, 0.0, 0.1, 0.0])
    weights, chosen = route(router, 2, correction, logits)
    # Group 0 contains the best single expert, group 1 the best pair.
    assert sorted(chosen[0].tolist()) == [2, 3]
    scores = {expert: sigmoid(float(logits[0, expert])) for expert in (2, 3)}
    expected = [2.5 * scores[expert] / sum(scores.values()) for expert in chosen[0].tolist()]
    assert weights[0].tolist() == pytest.approx(expected)


def test_router_top_k_first_equals_normalized_softmax() -> None:
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(5))
    before, chosen_before = route(Router(top_k_first=True, normalize=False), 3, None, logits)
    after, chosen_after = route(Router(normalize=True), 3, None, logits)
    assert torch.equal(chosen_before, chosen_after)
    torch.testing.assert_close(before, after)
