"""Each test adds one typical fault to a kernel. The checks of the other files must find it."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from triton.runtime.errors import InterpreterError

from tests.backends.triton import test_attention, test_linear
from tgi_triton import attention, linear
from tgi_triton.kernels import attention as attention_kernels
from tgi_triton.kernels import linear as linear_kernels

ATTENTION_SEEDS = range(12)
ATTENTION_MUTANTS = {
    "reads a position after the context": ("others < end", "others <= end"),
    "sees the next position": ("distances <= 0", "distances <= 1"),
    "has a window that is one too large": (
        "distances > -score.window",
        "distances >= -score.window",
    ),
    "does not rescale the sum": ("total * factor", "total"),
    "does not rescale the result": ("weighted * factor[:, None]", "weighted"),
    "uses the head of another group": (
        "kv_head * SIZES.group + places % SIZES.group",
        "kv_head * SIZES.group + places // SIZES.group * 0",
    ),
    "applies the scale twice": ("score.scale * cache.key_scale", "score.scale * score.scale"),
    "reads the block table of the first row": (
        "cache.block_tables + row * cache.table_stride",
        "cache.block_tables",
    ),
    "has no guard for rows without a visible position": (
        'tl.where(now == float("-inf"), 0.0, now)',
        "now",
    ),
    "adds the sink to every part": ("part == 0", "part >= 0"),
    "has slopes with the wrong sign": ("scores += slopes", "scores -= slopes"),
    "skips the first part": ("begin += part * num_blocks", "begin += (part + 1) * num_blocks"),
    "divides by nothing": ("weighted = weighted / tl.where(", "weighted = weighted * tl.where("),
}
LINEAR_MUTANTS = {
    "has the wrong order of half bytes": (
        "tl.join(packed & 0xF, packed >> 4)",
        "tl.join(packed >> 4, packed & 0xF)",
    ),
    "ignores the zero": (
        "numbers = codes.to(tl.float32) - zeros",
        "numbers = codes.to(tl.float32)",
    ),
    "uses the scale of the first group": (
        "first_input // SIZES.group",
        "first_input // SIZES.group * 0",
    ),
    "ignores the offsets": (
        "numbers += _per_group(weight.offsets",
        "numbers += 0 * _per_group(weight.offsets",
    ),
    "uses the matrix of the first expert": (
        "expert.to(tl.int64) * weight.num_columns",
        "expert.to(tl.int64) * 0",
    ),
    "adds the bias in every part": ("tl.where(part == 0, own_bias, 0.0)", "own_bias"),
    "uses the row of the line": ("lines // SIZES.lines_per_token", "lines % SIZES.lines_per_token"),
}


def mutated(module, change, folder):
    """Import the module with one changed place."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    old, new = change
    assert source.count(old) >= 1, f"the kernel does not contain: {old}"
    path = folder / f"{module.__name__.rpartition('.')[2]}_mutant.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    result = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = result  # dataclasses search the module for their annotations
    spec.loader.exec_module(result)
    return result


def attention_fails(operation):
    for seed in ATTENTION_SEEDS:
        own = replace(operation, part_keys=32) if seed % 2 else operation
        try:
            test_attention.random_case(seed).check(own)
        except (AssertionError, InterpreterError):
            return True
    return False


def products_fail(products):
    """Compare products with each format, and products of experts."""
    for name in ("int4 with zeros", "int4 with offsets", "int4 symmetric", "mxfp4"):
        matrix = test_linear.random_matrix(test_linear.FORMATS[name], 40, 768)
        x, bias = test_linear.normal(1, 2, 768), test_linear.normal(2, 40)
        expected = x.double() @ torch.from_numpy(matrix.dequantize()).double().T + bias
        device = linear.DeviceMatrix.of_codes([matrix], "cpu")
        if not is_close(products.of_rows(x, device, bias), expected):
            return True
    weight, chosen = test_linear.normal(3, 3, 16, 32), torch.tensor([[2, 1], [0, 2], [1, 0]])
    x = test_linear.normal(4, 3, 32)
    expected = torch.einsum("ti,tkoi->tko", x.double(), weight.double()[chosen]).flatten(0, 1)
    tiles = linear.tiles_of_experts(chosen, 3)
    device = linear.DeviceMatrix.of_numbers(weight)
    return not is_close(products.of_experts(x, device, None, tiles, 2), expected)


def is_close(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item() <= 2e-6


def test_the_kernels_without_a_fault_pass():
    assert not attention_fails(attention.PagedAttention())
    assert not products_fail(linear.Products())


@pytest.mark.parametrize("name", ATTENTION_MUTANTS)
def test_faults_of_attention_are_found(name, tmp_path):
    module = mutated(attention_kernels, ATTENTION_MUTANTS[name], tmp_path)
    operation = attention.PagedAttention(attend=module.attend, merge_parts=module.merge_parts)
    assert attention_fails(operation)


@pytest.mark.parametrize("name", LINEAR_MUTANTS)
def test_faults_of_products_are_found(name, tmp_path):
    module = mutated(linear_kernels, LINEAR_MUTANTS[name], tmp_path)
    assert products_fail(linear.Products(multiply=module.multiply, add_parts=module.add_parts))
