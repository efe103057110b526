"""Faults that the numpy reference cannot have, inserted into the CPU backend."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.conformance.faults.wrappers import BackendWithWorker, FaultyWorker
from tgi.testing.conformance import ALL_CHECKS, BackendUnderTest, run_check
from tgi_cpu.backend import CpuBackend

CHECKS = {check.id: check for check in ALL_CHECKS}
struct = msgspec.structs.replace


def faulty_cpu(change):
    """The CPU backend with a change of every submitted step. None means no change."""
    cpu = CpuBackend()

    def create_worker(config, reporter):
        worker = cpu.create_worker(config, reporter)
        if change is None:
            return worker
        return FaultyWorker(worker, {"submit": lambda inner, step: inner.submit(change(step))})

    return BackendWithWorker(cpu, create_worker)


def with_encoder_tokens(change):
    return lambda step: struct(
        step, added=[struct(new, encoder_tokens=change(new)) for new in step.added]
    )


def lost_when_resumed(new):
    is_resumed = len(new.tokens) > new.num_prompt_tokens
    return np.zeros_like(new.encoder_tokens) if is_resumed else new.encoder_tokens


FAULTS = {
    "the encoder reads backwards": (
        with_encoder_tokens(lambda new: new.encoder_tokens[::-1].copy()),
        "C-59a",
    ),
    "the encoder reads nothing after a preemption": (
        with_encoder_tokens(lost_when_resumed),
        "C-59a",
    ),
}


def ask(check_id, change, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return run_check(CHECKS[check_id], BackendUnderTest("cpu", faulty_cpu(change), tmp_path))


@pytest.mark.parametrize("check_id", sorted({check_id for _, check_id in FAULTS.values()}))
def test_without_a_fault_the_check_passes(check_id, tmp_path, monkeypatch):
    result = ask(check_id, None, tmp_path, monkeypatch)
    assert (result.status, result.message) == ("passed", "")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_detected(fault, tmp_path, monkeypatch):
    change, check_id = FAULTS[fault]
    assert ask(check_id, change, tmp_path, monkeypatch).status == "failed"
