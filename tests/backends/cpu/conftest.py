"""Fixtures for the tests of the torch code and of the native kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backends.cpu.native_kernels import SCRATCH_FLOATS, require_library
from tgi_cpu import machine
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_engine import Engine


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread. Tiny models gain nothing from more, and waiting threads cost much time."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the default dtype as on a processor with instructions for bfloat16, on any machine."""
    monkeypatch.setattr(machine, "has_bfloat16_products", lambda: True)


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    """The native kernels. Skips the test if they cannot run."""
    return require_library()


@pytest.fixture(scope="module")
def engine(library: NativeLibrary) -> Iterator[Engine]:
    """An engine with two threads and scratch memory for small matrices."""
    engine = Engine(library, 2, 4, SCRATCH_FLOATS)
    yield engine
    engine.close()
