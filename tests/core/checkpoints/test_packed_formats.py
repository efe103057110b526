"""GPTQ, AWQ and Marlin are converted to the canonical form bit by bit."""

import dataclasses

import numpy as np
import pytest

from tests.packed_weights import pack_awq, pack_gptq, pack_marlin, quantized
from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.table import FORMATS
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

OUTPUTS, INPUTS = 128, 96
DTYPES = {"int32": "I32", "float16": "F16"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}


def weights(seed=0, inputs=INPUTS):
    # The mean is not 0, so that zeros differ.
    return np.random.default_rng(seed).normal(0.1, 1.0, (OUTPUTS, inputs))


def header(parts, module="m"):
    return {
        f"{module}.{key}": StoredTensor(
            f"{module}.{key}", DTYPES[str(values.dtype)], values.shape, 0, values.nbytes
        )
        for key, values in parts.items()
    }


def tensor_of(config, stored):
    form = FORMATS[config["quant_method"]](Settings(config, "config.json"))

    def read(name):
        raise AssertionError(f"{name} was read")

    return form.tensors(stored, read)["m.weight"]


def decoded(config, parts, rows=slice(0, OUTPUTS)):
    return tensor_of(config, header(parts)).decode(parts.__getitem__, None, rows)


def check(config, parts, weight, *, has_zeros):
    """Compare codes, scales, zeros and order, for all rows and for a part of the rows."""
    matrix = decoded(config, parts)
    order = matrix.input_order
    positions = np.arange(weight.codes.shape[1]) if order is None else order
    np.testing.assert_array_equal(matrix.codes, weight.codes[:, positions])
    np.testing.assert_array_equal(matrix.scales, weight.scales.astype(np.float32))
    if has_zeros:
        np.testing.assert_array_equal(matrix.zeros, weight.zeros)
    else:
        assert matrix.zeros is None
        assert (weight.zeros == matrix.format.zero).all()
    np.testing.assert_array_equal(matrix.dequantize(), weight.dequantized())
    part = decoded(config, parts, slice(64, OUTPUTS))
    np.testing.assert_array_equal(part.dequantize(), weight.dequantized()[64:])
    empty = decoded(config, parts, slice(0, 0))
    assert empty.shape == (0, weight.codes.shape[1])
    if order is not None:
        np.testing.assert_array_equal(empty.input_order, order)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("has_order", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq(bits, version, has_order, symmetric):
    order = np.random.default_rng(1).permutation(INPUTS) if has_order else None
    weight = quantized(weights(), bits=bits, group_size=32, symmetric=symmetric, order=order)
    config = GPTQ | {
        "bits": bits,
        "desc_act": has_order,
        "sym": symmetric,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
    }
    check(config, pack_gptq(weight, bits, version=version), weight, has_zeros=not symmetric)


@pytest.mark.parametrize("has_order", [False, True])
def test_gptq_with_one_group(has_order):
    weight = quantized(weights())
    config = GPTQ | {"group_size": -1, "desc_act": has_order}
    check(config, pack_gptq(weight, 4), weight, has_zeros=True)


def test_gptq_with_an_incomplete_group():
    weight = quantized(weights(), group_size=64)
    check(GPTQ | {"group_size": 64}, pack_gptq(weight, 4), weight, has_zeros=True)


def test_gptq_with_other_settings_for_some_modules():
    weight = quantized(weights(), bits=8, group_size=32)
    config = GPTQ | {"dynamic": {"+:m$": {"bits": 8}}}
    check(config, pack_gptq(weight, 8), weight, has_zeros=True)
    with pytest.raises(ModelError, match="excludes it by the pattern `m`"):
        decoded(GPTQ | {"dynamic": {"-:m": {}}}, pack_gptq(weight, 8))


@pytest.mark.parametrize("group_size", [32, None])
def test_awq(group_size):
    weight = quantized(weights(), group_size=group_size)
    check(AWQ | {"group_size": group_size or -1}, pack_awq(weight), weight, has_zeros=True)


@pytest.mark.parametrize("group_size", [128, None])
def test_marlin(group_size):
    weight = quantized(weights(inputs=256), group_size=group_size, symmetric=True)
    config = GPTQ | {"group_size": group_size or -1, "is_marlin_format": True}
    check(config, pack_marlin(weight), weight, has_zeros=False)


FAULTS = {
    "nibble order": lambda parts: parts | {"qweight": swapped_nibbles(parts["qweight"])},
    "zeros off by one": lambda parts: parts | {"qzeros": parts["qzeros"] ^ 1},
    "order ignored": lambda parts: parts | {"g_idx": np.sort(parts["g_idx"])},
    "wrong group": lambda parts: parts | {"scales": np.roll(parts["scales"], 1, axis=0)},
    "transposed": lambda parts: (
        parts | {"qweight": parts["qweight"].T.reshape(parts["qweight"].shape).copy()}
    ),
}


def swapped_nibbles(words):
    octets = words.view(np.uint8)
    return ((octets >> 4) | (octets << 4)).view(np.int32)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_detects_faults_of_gptq(fault):
    order = np.random.default_rng(1).permutation(INPUTS)
    weight = quantized(weights(), group_size=32, order=order)
    with pytest.raises(AssertionError):
        faulty = FAULTS[fault](pack_gptq(weight, 4))
        check(GPTQ | {"desc_act": True}, faulty, weight, has_zeros=True)


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - {"order ignored"}))
def test_the_comparison_detects_faults_of_awq(fault):
    weight = quantized(weights(), group_size=32)
    with pytest.raises(AssertionError):
        check(AWQ, FAULTS[fault](pack_awq(weight)), weight, has_zeros=True)


@pytest.mark.parametrize("key", ["qzeros", "scales", "g_idx"])
def test_a_missing_part_is_named(key):
    parts = pack_gptq(quantized(weights(), group_size=32), 4)
    del parts[key]
    with pytest.raises(ModelError, match=f"`m.{key}`"):
        decoded(GPTQ | {"desc_act": True}, parts)


@pytest.mark.parametrize("key", ["qzeros", "scales", "g_idx"])
def test_a_part_of_a_wrong_shape_or_dtype_is_named(key):
    stored = header(pack_gptq(quantized(weights(), group_size=32), 4))
    changed = dataclasses.replace(stored[f"m.{key}"], shape=(3, 5))
    with pytest.raises(ModelError, match=rf"`m.{key}` has shape \[3, 5\]"):
        tensor_of(GPTQ, stored | {f"m.{key}": changed})
    changed = dataclasses.replace(stored[f"m.{key}"], dtype="U8")
    with pytest.raises(ModelError, match=f"`m.{key}` has the dtype U8"):
        tensor_of(GPTQ, stored | {f"m.{key}": changed})


def test_an_unquantized_weight_beside_the_quantized_one_is_an_error():
    parts = pack_awq(quantized(weights(), group_size=32))
    stored = header(parts) | header({"weight": np.zeros((2, 2), np.float16)})
    with pytest.raises(ModelError, match=r"`m\.weight` and also a quantized weight"):
        tensor_of(AWQ, stored)
    with pytest.raises(ModelError, match="lists this module as not quantized"):
        tensor_of(AWQ | {"modules_to_not_convert": ["m"]}, header(parts))


def test_contradictions_between_config_and_data_are_errors():
    order = np.random.default_rng(1).permutation(INPUTS)
    parts = pack_gptq(quantized(weights(), group_size=32, order=order), 4)
    with pytest.raises(ModelError, match=r"`m\.g_idx` has another order"):
        decoded(GPTQ, parts)
    with pytest.raises(ModelError, match=r"`m\.qzeros` contains other zeros than 8"):
        decoded(GPTQ | {"desc_act": True, "sym": True}, parts)
    with pytest.raises(ModelError, match=r"`m\.g_idx` does not assign 32 inputs"):
        decoded(GPTQ, parts | {"g_idx": np.zeros(INPUTS, np.int32)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPTQ | {"bits": 5}, "`bits` must be one of 2, 3, 4, 8. Given: 5."),
        (GPTQ | {"group_size": 0}, "`group_size` must be positive"),
        (GPTQ | {"group_size": "x"}, "`group_size` must be an integer. Given: 'x'."),
        (GPTQ | {"checkpoint_format": "bitblas"}, "`checkpoint_format` must be one of gptq"),
        (GPTQ | {"dynamic": {"(": {}}}, "`dynamic` must be regular expressions"),
        (GPTQ | {"desc_act": 3}, "`desc_act` must be true or false. Given: 3."),
        ({"quant_method": "gptq"}, "`bits` is missing"),
        (AWQ | {"version": "gemv"}, "`version` must be one of gemm, exllama, ipex. Given: 'gemv'."),
        (AWQ | {"modules_to_not_convert": "m"}, "must be a list of texts"),
        (
            {"quant_method": "marlin", "checkpoint_format": "marlin_24"},
            "`checkpoint_format` must be one of gptq, marlin. Given: 'marlin_24'.",
        ),
    ],
)
def test_a_wrong_setting_is_named(config, message):
    with pytest.raises(ModelError) as error:
        FORMATS[config["quant_method"]](Settings(config, "config.json"))
    assert message in str(error.value)
