"""The work of one decode step on the CPU backend: torch operations, Python calls and memory.

The work inside kernels is not counted. Work around them determines the speed of small models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.backends.checkpoints import save_checkpoint
from tests.backends.scripted_core import RecordingReporter, ScriptedCore, started
from tests.work_counter import count_calls, peak_bytes
from tgi.architectures import load_spec
from tgi.backend import EngineConfig, RequestedLimits, SamplingParams
from tgi_cpu import tgi_backend
from tgi_cpu.native import load_library

PROMPT = [5, 9, 2, 7]
GREEDY = SamplingParams()
SAMPLED = SamplingParams(greedy=False, temperature=0.7, top_k=20, top_p=0.9)

# (kernels, sampling, rows) -> torch operations, Python calls, and peak bytes of Python's memory, in
# a step of the worker
LIMITS = {
    ("native", "greedy", 1): (0, 52, 3_800),
    ("native", "greedy", 8): (0, 66, 3_800),
    ("native", "sampled", 8): (0, 66, 3_800),
    ("torch", "greedy", 8): (256, 600, 9_500),
}

MakeCore = Callable[..., ScriptedCore]


class OpCounter(TorchDispatchMode):
    """Counts the operations that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.num_ops = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.num_ops += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    save_checkpoint("llama", path)
    return path


@pytest.fixture
def make_core(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeCore]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workers = []

    def make(kernels: str, sampling: str, num_rows: int, path: Path = checkpoint) -> ScriptedCore:
        library = load_library()
        if kernels == "native" and (library is None or not library.is_supported):
            pytest.skip("the native kernels do not run on this machine")
        dtype = "bfloat16" if kernels == "native" else "float32"
        config = EngineConfig("cpu", str(path), load_spec(path), dtype=dtype)
        worker = tgi_backend().create_worker(config, RecordingReporter())
        workers.append(worker)
        core = started(
            worker, RequestedLimits(max_concurrent_requests=num_rows, max_batch_prefill_tokens=64)
        )
        assert core.agreement.facts["kernels"] == kernels
        for handle in range(num_rows):
            core.introduce(handle, PROMPT, sampling=GREEDY if sampling == "greedy" else SAMPLED)
        for _ in range(3):  # the prefill, then objects that the first decode step creates
            core.step(dict.fromkeys(range(num_rows), 0), dict.fromkeys(range(num_rows), 0.5))
        return core

    yield make
    for worker in workers:
        worker.close()


def decode(core: ScriptedCore) -> Callable[[], object]:
    """Return a call of the worker's part in the next step."""
    step = core.build(dict.fromkeys(core.live, 0), dict.fromkeys(core.live, 0.5))
    return lambda: core.run(step)


def count_ops(work: Callable[[], object]) -> int:
    with OpCounter() as counter:
        work()
    return counter.num_ops


@pytest.mark.parametrize("case", LIMITS, ids=lambda case: "-".join(map(str, case)))
def test_work_of_a_decode_step(make_core: MakeCore, case: tuple[str, str, int]) -> None:
    core = make_core(*case)
    max_ops, max_calls, max_bytes = LIMITS[case]
    num_ops, num_calls = count_ops(decode(core)), count_calls(decode(core))
    peak, _ = peak_bytes(decode(core))
    print(f"{num_ops} operations, {num_calls} calls, {peak} bytes at once")
    assert num_ops <= max_ops
    assert num_calls <= max_calls
    assert peak <= max_bytes


@pytest.mark.parametrize(
    "case", [("torch", "greedy", 8), ("native", "greedy", 1)], ids=lambda case: case[0]
)
def test_more_work_is_detected(make_core: MakeCore, case: tuple[str, str, int]) -> None:
    core = make_core(*case)
    max_ops, max_calls, max_bytes = LIMITS[case]
    assert count_ops(both(decode(core), lambda: [torch.zeros(1) + 1 for _ in range(10)])) > max_ops
    assert count_calls(both(decode(core), lambda: [abs(n) for n in range(40)])) > max_calls
    assert peak_bytes(both(decode(core), lambda: bytearray(max_bytes)))[0] > max_bytes


def both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], object]:
    return lambda: (first(), second())


def test_native_work_does_not_grow_with_the_layers(make_core: MakeCore, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path, num_hidden_layers=5)
    few, many = make_core("native", "greedy", 1), make_core("native", "greedy", 1, tmp_path)
    assert count_ops(decode(few)) == count_ops(decode(many))
    assert count_calls(decode(few)) == count_calls(decode(many))
