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
from tests.work_counter import count_calls, peak_bytes
from tgi.architectures import load_spec
from tgi.backend import (
    EngineConfig,
    ModelRunnerOutput,
    RequestedLimits,
    SamplingParams,
    SchedulerOutput,
)
from tgi.testing.conformance.backend_under_test import RecordingReporter, start
from tgi.testing.conformance.scripted_core import ScriptedCore
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


class DecodeSteps:
    """Decode steps of all sequences of a core. Only the worker's part of a step is measured."""

    def __init__(self, core: ScriptedCore) -> None:
        self._core = core
        self._done: tuple[SchedulerOutput, ModelRunnerOutput | None] | None = None

    def next(self) -> Callable[[], object]:
        """Return a call of the worker's part in the next step."""
        core = self._core
        if self._done is not None:
            core.accept(*self._done)
        step = core.build(dict.fromkeys(core.live.values(), 1))
        core.rules.submit(step)

        def run() -> None:
            core.worker.submit(step)
            self._done = step, core.worker.collect()

        return run


MakeSteps = Callable[..., DecodeSteps]


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
def make_steps(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSteps]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    workers = []

    def make(kernels: str, sampling: str, num_rows: int, path: Path = checkpoint) -> DecodeSteps:
        library = load_library()
        if kernels == "native" and (library is None or not library.is_supported):
            pytest.skip("the native kernels do not run on this machine")
        dtype = "bfloat16" if kernels == "native" else "float32"
        config = EngineConfig("cpu", str(path), load_spec(path), dtype=dtype)
        worker = tgi_backend().create_worker(config, RecordingReporter())
        workers.append(worker)
        core = start(
            worker, RequestedLimits(max_concurrent_requests=num_rows, max_batch_prefill_tokens=64)
        )
        assert core.agreement.facts["kernels"] == kernels
        for _ in range(num_rows):
            core.add(PROMPT, GREEDY if sampling == "greedy" else SAMPLED).draw = 0.5
        for _ in range(3):  # the prefill, then objects that the first decode step creates
            core.step(dict.fromkeys(core.live.values(), 0))
        return DecodeSteps(core)

    yield make
    for worker in workers:
        worker.close()


def count_ops(work: Callable[[], object]) -> int:
    with OpCounter() as counter:
        work()
    return counter.num_ops


@pytest.mark.parametrize("case", LIMITS, ids=lambda case: "-".join(map(str, case)))
def test_work_of_a_decode_step(make_steps: MakeSteps, case: tuple[str, str, int]) -> None:
    steps = make_steps(*case)
    max_ops, max_calls, max_bytes = LIMITS[case]
    num_ops, num_calls = count_ops(steps.next()), count_calls(steps.next())
    peak, _ = peak_bytes(steps.next())
    print(f"{num_ops} operations, {num_calls} calls, {peak} bytes at once")
    assert num_ops <= max_ops
    assert num_calls <= max_calls
    assert peak <= max_bytes


@pytest.mark.parametrize(
    "case", [("torch", "greedy", 8), ("native", "greedy", 1)], ids=lambda case: case[0]
)
def test_more_work_is_detected(make_steps: MakeSteps, case: tuple[str, str, int]) -> None:
    steps = make_steps(*case)
    max_ops, max_calls, max_bytes = LIMITS[case]
    assert count_ops(both(steps.next(), lambda: [torch.zeros(1) + 1 for _ in range(10)])) > max_ops
    assert count_calls(both(steps.next(), lambda: [abs(n) for n in range(40)])) > max_calls
    assert peak_bytes(both(steps.next(), lambda: bytearray(max_bytes)))[0] > max_bytes


def both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], object]:
    return lambda: (first(), second())


def test_native_work_does_not_grow_with_the_layers(make_steps: MakeSteps, tmp_path: Path) -> None:
    save_checkpoint("llama", tmp_path, num_hidden_layers=5)
    few, many = make_steps("native", "greedy", 1), make_steps("native", "greedy", 1, tmp_path)
    assert count_ops(few.next()) == count_ops(many.next())
    assert count_calls(few.next()) == count_calls(many.next())
