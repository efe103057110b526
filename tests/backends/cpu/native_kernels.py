"""Helpers for the tests of the native kernels."""

from __future__ import annotations

import shutil

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tgi_cpu.native import NativeLibrary, load_library
from tgi_cpu.native_builder import Kind, Store
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_matrices import Matrix
from tgi_cpu.native_records import BatchRecord, OpRecord, round_up

__all__ = ["SCRATCH_FLOATS", "multiply", "require_library"]

SCRATCH_FLOATS = 1 << 17  # of the engine fixture


def require_library() -> NativeLibrary:
    """Load the kernels. Skips the test if this machine cannot build or run them."""
    library = load_library()
    if library is None and not any(
        shutil.which(compiler) for compiler in ("c++", "g++", "clang++")
    ):
        pytest.skip("there is no C++ compiler to build the native kernels")
    assert library is not None, (
        "there is a C++ compiler, but the native kernels were not built: `pip install -e"
        " backends/cpu`"
    )
    if not library.is_supported:
        pytest.skip("this processor lacks AVX-512 with bfloat16 products")
    return library


def multiply(engine: Engine, matrix: Matrix, rows: Tensor) -> npt.NDArray[np.float32]:
    """Multiply bfloat16 rows [T, inputs] by the weights: float32 [T, padded outputs]."""
    plan = matrix.plan
    source = np.zeros((len(rows), round_up(plan.num_inputs, 32)), np.uint16)
    source[:, : plan.num_inputs] = rows.bfloat16().view(torch.int16).numpy().view(np.uint16)
    target = np.full((len(rows), plan.padded_columns), np.nan, np.float32)
    op = OpRecord(
        kind=Kind.LINEAR,
        store=Store.FLOAT,
        num_columns=plan.num_columns,
        num_inputs=plan.num_inputs,
        source=source.ctypes.data,
        target=target.ctypes.data,
        scale=1.0,
        **matrix.operand,
    )
    assert matrix.scratch_floats <= SCRATCH_FLOATS
    engine.run((OpRecord * 1)(op), BatchRecord(num_tokens=len(rows)))
    return target
