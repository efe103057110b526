"""The kernels' threads and memory, observed through the operating system."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tgi_cpu.native import NativeLibrary, load_library
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_records import SAMPLE_RESULT, SAMPLE_ROW

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TASKS = Path("/proc/self/task")
NUM_ROWS, VOCAB_SIZE = 8, 1000


@pytest.fixture(scope="module")
def library() -> NativeLibrary:
    library = load_library()
    if library is None or not library.is_supported:
        pytest.skip("the native kernels do not run on this machine")
    return library


@pytest.fixture
def engine(library: NativeLibrary) -> Iterator[Engine]:
    engine = Engine(library, num_threads=3, max_ops=1, scratch_floats=16)
    yield engine
    engine.close()


def status(task: str) -> dict[str, str]:
    lines = (TASKS / task / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def threads() -> set[str]:
    return {task.name for task in TASKS.iterdir()}


def sleeping_switches(tasks: set[str]) -> dict[str, str]:
    """The number of voluntary context switches of each thread, once all of them sleep."""
    while any(not status(task)["State"].startswith("S") for task in tasks):
        time.sleep(0.01)
    return {task: status(task)["voluntary_ctxt_switches"] for task in tasks}


def test_threads_sleep_until_there_is_work(library: NativeLibrary) -> None:
    before = threads()
    engine = Engine(library, num_threads=3, max_ops=1, scratch_floats=16)
    own = threads() - before
    assert len(own) == 2
    sample(engine)
    settled = sleeping_switches(own)
    time.sleep(0.1)
    assert sleeping_switches(own) == settled
    sample(engine)
    assert sleeping_switches(own) != settled, "the threads must wake up for work"
    engine.close()
    assert threads() == before


def test_results_are_in_the_order_of_rows(engine: Engine) -> None:
    for _ in range(50):
        assert sample(engine).tolist() == list(range(NUM_ROWS))


def sample(engine: Engine) -> np.ndarray:
    """Sample rows whose best token id is the index of the row."""
    rows, results = np.zeros(NUM_ROWS, SAMPLE_ROW), np.zeros(NUM_ROWS, SAMPLE_RESULT)
    rows["greedy"] = 1
    logits = np.zeros((NUM_ROWS, VOCAB_SIZE), np.float32)
    np.fill_diagonal(logits, 1)
    engine.sampler(VOCAB_SIZE).sample(logits.ctypes.data, VOCAB_SIZE, rows, results)
    return results["token"]


def test_memory_is_private(library: NativeLibrary) -> None:
    """Only private memory gets huge pages without a change of system settings."""
    before = shared_bytes()
    memory = library.allocate(8 << 20)
    memory[:] = 1
    assert shared_bytes() == before


def shared_bytes() -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("RssShmem"))
