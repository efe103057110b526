"""Loading of weights, tensor by tensor, in full precision and quantized to int8."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import load_file, save_file

from tests.backends.tpu.specs import spec_of
from tests.backends.tpu.stepping import Runner, Sequence, draw_weights, parameters_of
from tgi.backend import ModelError
from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights
from tgi.testing.tiny_models import write_tiny_model
from tgi_tpu.mesh import make_mesh
from tgi_tpu.model import decoder
from tgi_tpu.model.layer_groups import cache_shapes, layer_groups, place_of
from tgi_tpu.weights.parameters import abstract_parameters, parameter_bytes
from tgi_tpu.weights.quantized import QuantizedMatrix, matmul, quantize


def by_parameter(spec, parameters) -> dict[str, np.ndarray]:
    """Split the tree into parameters by name."""
    groups, found = (
        layer_groups(spec),
        {parameter: np.asarray(array) for parameter, array in parameters.outside.items()},
    )
    for layer in range(len(spec.decoder.layers)):
        place = place_of(groups, layer)
        for parameter, array in parameters.groups[place.group][place.member].items():
            found[f"decoder.layers.{layer}.{parameter}"] = np.asarray(array[place.repeat])
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_every_parameter_is_read(family: str, tmp_path: Path) -> None:
    spec = write_tiny_model(tmp_path, family)
    seen: list[tuple[int, int]] = []
    parameters = decoder.load(
        spec, tmp_path, make_mesh(1, "cpu"), "float32", progress=lambda *item: seen.append(item)
    )
    loaded, expected = by_parameter(spec, parameters), read_weights(spec, tmp_path)
    assert loaded.keys() == expected.keys()
    for parameter, array in expected.items():
        np.testing.assert_array_equal(loaded[parameter], array, err_msg=parameter)
    done = [done for done, _ in seen]
    assert (
        done == sorted(done)
        and done[0] == 0
        and done[-1] == seen[-1][1] == sum(a.nbytes for a in expected.values())
    )


def test_half_precision_files_become_bfloat16(tmp_path: Path) -> None:
    spec = write_tiny_model(tmp_path, dtype="float16")
    parameters = decoder.load(spec, tmp_path, make_mesh(1, "cpu"), "bfloat16")
    expected = read_weights(spec, tmp_path)["decoder.layers.1.mlp.up.weight"]
    loaded = parameters.groups[0][0]["mlp.up.weight"][1]
    assert loaded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(loaded), expected.astype(jnp.bfloat16))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    spec = write_tiny_model(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    save_file(tensors | {name: tensors[name][:-1]}, file)
    with pytest.raises(ModelError, match=rf"model\.safetensors.*`{name}`.*shape"):
        decoder.load(spec, tmp_path, make_mesh(1, "cpu"), "float32")
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=rf"{tmp_path}.*no tensor `{name.removeprefix('model.')}`"):
        decoder.load(spec, tmp_path, make_mesh(1, "cpu"), "float32")
    save_file(tensors | {name: np.zeros((64, 32), np.int8)}, file)
    with pytest.raises(ModelError, match=rf"`{name}` has the dtype I8"):
        decoder.load(spec, tmp_path, make_mesh(1, "cpu"), "float32")


def test_int8_quantizes_each_row_separately() -> None:
    matrix = jnp.asarray(
        np.random.default_rng(0).standard_normal((5, 40))
        * np.asarray([[1e-3], [1], [50], [0], [7]]),
        jnp.float32,
    )
    rounded = quantize(matrix)
    assert rounded.values.dtype == jnp.int8
    restored = rounded.values * rounded.scale[:, None]
    assert (
        jnp.abs(restored - matrix)
        <= jnp.max(jnp.abs(matrix), axis=1, keepdims=True) / 127 / 2 + 1e-9
    ).all()
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 40)), jnp.float32)
    np.testing.assert_allclose(matmul(x, rounded), x @ restored.T, rtol=1e-4, atol=1e-4)


def test_an_int8_model_equals_the_model_with_its_rounded_weights() -> None:
    spec = spec_of("mixtral")
    weights = draw_weights(spec)
    parameters = parameters_of(spec, weights, quantization="int8")
    flat = jax.tree.leaves(parameters, is_leaf=lambda leaf: isinstance(leaf, QuantizedMatrix))
    assert any(isinstance(leaf, QuantizedMatrix) for leaf in flat)
    rounded = dict(weights)
    for parameter, array in weights.items():
        parts = parameter.split(".")
        if parameter == "head.weight" or (
            parts[0] == "decoder" and parts[-2] in {"q", "k", "v", "o", "gate", "up", "down"}
        ):
            whole = quantize(jnp.asarray(array))
            rounded[parameter] = np.asarray(whole.values * whole.scale[..., None])
    sequence = Sequence(list(range(1, 16)), [4, 2, 9, 1])
    Runner(spec, parameters).step([(sequence, 15)])
    expected = reference_logits(spec, rounded, sequence.token_ids)
    assert np.abs(np.stack(sequence.logits) - expected).max() < 1e-3
    assert np.abs(reference_logits(spec, weights, sequence.token_ids) - expected).max() > 1e-3, (
        "rounding shows"
    )


def test_bytes_are_calculated_before_loading(tmp_path: Path) -> None:
    spec, mesh = write_tiny_model(tmp_path), make_mesh(1, "cpu")
    for quantization in (None, "int8"):
        parameters = decoder.load(spec, tmp_path, mesh, "float32", quantization=quantization)
        loaded = sum(array.nbytes for array in jax.tree.leaves(parameters))
        assert parameter_bytes(spec, mesh, "float32", quantization) == loaded
        abstract = abstract_parameters(spec, mesh, "float32", quantization)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), abstract) == jax.tree.map(
            lambda a: (a.shape, a.dtype), parameters
        )


def test_equal_layers_form_groups() -> None:
    """Equal layers repeat one layer, alternating windows repeat two. Others are groups of one."""
    layers = dict(zip("ab", spec_of("gemma2").decoder.layers[:2], strict=True))

    def sizes(names: str) -> list[tuple[int, int]]:
        spec = spec_of("gemma2")
        stack = replace(spec.decoder, layers=tuple(layers[name] for name in names))
        groups = layer_groups(replace(spec, stacks=(stack,)))
        places = [place_of(groups, layer) for layer in range(len(names))]
        assert tuple(groups[place.group].pattern[place.member] for place in places) == stack.layers
        assert len(set(places)) == len(places)
        return [(len(group.pattern), group.repeats) for group in groups]

    assert sizes("aaaa") == [(1, 4)]
    assert sizes("abababa") == [(2, 3), (1, 1)]
    assert sizes("baaa") == [(1, 1), (1, 3)]
    assert sizes("aabaab") == [(3, 2)]


def test_blocks_are_copied_in_every_layer() -> None:
    spec = spec_of("llama")
    mesh = make_mesh(1, "cpu")
    cache = jax.tree.map(
        lambda pages: jnp.arange(pages.size, dtype=jnp.float32).reshape(pages.shape),
        decoder.empty_cache(spec, 5, 4, "float32", mesh),
    )
    before = [np.array(pages).reshape(3, 5, -1) for pages in cache]
    # Swaps two blocks. The last pair is padding.
    copied = decoder.copy_blocks(
        spec, cache, np.asarray([1, 3, 0], np.int32), np.asarray([3, 1, -1], np.int32)
    )
    for old, new in zip(before, copied, strict=True):
        np.testing.assert_array_equal(np.asarray(new).reshape(3, 5, -1), old[:, [0, 3, 2, 1, 4]])
    shape = cache_shapes(spec)[0]
    assert (
        decoder.cache_bytes_per_block(spec, 4, "float32", mesh)
        == 3 * 4 * 2 * shape.num_kv_heads * shape.head_dim * 4
    )
