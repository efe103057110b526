"""What every test of the torch code and of the native kernels needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backends.cpu.native_kernels import SCRATCH_FLOATS, require_library
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_engine import Engine


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models gain nothing from threads, and threads that wait for a busy processor cost most
    of the time.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    """The native kernels; skips the test where they cannot run."""
    return require_library()


@pytest.fixture(scope="module")
def engine(library: NativeLibrary) -> Iterator[Engine]:
    """Two threads with room for small matrices."""
    engine = Engine(library, 2, 4, SCRATCH_FLOATS)
    yield engine
    engine.close()
