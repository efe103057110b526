"""Checks under load and over many steps: scheduler, compilation, memory leaks, steps in flight and
records.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import msgspec
import psutil  # type: ignore[import-untyped]

from tgi.backend import ModelRunnerOutput, SamplingParams, decode, encode
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scheduled import ScheduledRun

__all__ = ["CHECKS"]

_NUM_STEPS = 150
_LEAST_SHARE = 0.02  # of the duration of a step that its times must explain


def _compilations(under_test: BackendUnderTest) -> None:
    """After warm-up, either nothing is compiled, or each compilation is reported as progress and in
    the times of the step.
    """
    core, reporter = under_test.core(), under_test.reporter
    rng = random.Random(5)  # noqa: S311 - for random sizes, not for a secret
    shapes, announced = set[str](), reporter.count("compile")
    for step in range(12):
        count = rng.randint(1, core.agreement.limits.max_sequences)
        sequences = [
            core.add(prompt_of(rng.randint(1, 60), seed=step * 16 + i)) for i in range(count)
        ]
        for _ in range(2):
            for output in core.advance(dict.fromkeys(sequences, 0)):
                counted, heard = output.times.compile > 0, reporter.count("compile") > announced
                announced = reporter.count("compile")
                require(
                    counted == heard,
                    "a compilation while serving is missing in the "
                    + ("progress reports" if counted else "times of the step"),
                )
                shapes.add(output.shape)
        core.drop(*sequences)


def _times(under_test: BackendUnderTest) -> None:
    """The times of a long prompt's step are compared with the clock. A worker that reports
    microseconds instead of nanoseconds reports a thousandth of the duration.
    """
    core = under_test.core()
    limits = core.agreement.limits
    length = min(limits.max_step_tokens, limits.max_total_tokens - 2)
    shares = []
    for seed in range(5):
        sequence = core.add(prompt_of(length, seed=seed))
        step = core.build({sequence: length})
        began = time.perf_counter_ns()
        output = core.run(step)
        wall = time.perf_counter_ns() - began
        times = output.times
        spent = times.prepare + times.forward + times.sample + times.compile
        require(spent <= wall, f"the times of a step add up to {spent} ns, but it took {wall} ns")
        shares.append(spent / wall)
        core.drop(sequence)
    require(
        max(shares) >= _LEAST_SHARE,
        f"the times of a step are at most {max(shares):.5f} of its duration; the unit of"
        " `StepTimes` is the nanosecond",
    )


def _soak(under_test: BackendUnderTest) -> None:
    """With the real scheduler, sequences start and end at random times. No memory or other resource
    is leaked.
    """
    core = under_test.core()
    process = psutil.Process()
    run = ScheduledRun(core.worker, core.agreement)
    rng = random.Random(6)  # noqa: S311 - for random choices, not for a secret
    drawn = "temperature" in core.agreement.sampling
    before = (threading.active_count(), process.num_fds())
    for step in range(_NUM_STEPS):
        if rng.random() < 0.35 and run.num_live < 12:
            shared = prompt_of(rng.choice([0, 20, 33]), seed=1)
            sampling = SamplingParams(greedy=not drawn or rng.random() < 0.5)
            run.add(
                [*shared, *prompt_of(rng.randint(1, 20), seed=step)],
                rng.randint(1, 12),
                sampling,
                seed=step,
            )
        if run.num_live and rng.random() < 0.1:
            run.abort(rng.choice(run.live))
        run.step()
    run.finish()
    check_sequences(under_test.models.get(), run.ended, core.agreement)
    require(bool(run.ended), "the run ended no sequence")
    after = (threading.active_count(), process.num_fds())
    require(after <= before, f"threads and file descriptors grew: {before} to {after}")


def _health(under_test: BackendUnderTest) -> None:
    """Sequences use the first and the last block, or the first and the last slot, so that a deep
    check cannot use the cache without changing a result.
    """
    worker = under_test.worker()
    require(not worker.health(deep=False).ok, "a worker without weights reports healthy")
    worker.close()
    core = under_test.core()
    plan = core.agreement.kv_cache
    ends = {0, len(core.free_slots) - 1}
    core.free_slots.sort(key=lambda slot: slot in ends)
    blocks = [[0], [len(core.free_blocks) - 1]] if plan.mode == "paged" else [[] for _ in ends]
    sampling = SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")
    length = min(plan.block_size or 16, 32) - 4
    sequences = [
        core.add(prompt_of(max(length, 1), seed=seed), sampling, blocks=own)
        for seed, own in enumerate(blocks[: core.agreement.limits.max_sequences])
    ]
    core.generate(sequences, 1)
    for deep in (False, True):
        health = core.worker.health(deep=deep)
        require(health.ok, f"a worker that serves reports unhealthy: {health.message}")
        core.generate(sequences, 1)
    check_sequences(under_test.models.get(), sequences, core.agreement)


def _deep_health_of_a_broken_model(under_test: BackendUnderTest) -> None:
    """With NaN in the embedding of every token, a forward pass computes NaN."""
    broken = under_test.models.poisoned(None)
    with under_test.serving(broken) as core:
        require(
            not core.worker.health(deep=True).ok,
            "a deep check reports a model healthy whose logits are NaN",
        )


def _device_tokens(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("device_token"), "`device_token` was not negotiated")
    drawn = SamplingParams(greedy="temperature" not in core.agreement.sampling)
    count = min(3, core.agreement.limits.max_sequences)
    sequences = [core.add(prompt_of(5 + i, seed=i), drawn, seed=i) for i in range(count)]
    for _ in range(8):
        core.advance(dict.fromkeys(sequences, 0), on_device=True)
    check_sequences(under_test.models.get(), sequences, core.agreement)


def _records(under_test: BackendUnderTest) -> None:
    """Results are equal after encoding and decoding, even with additional fields. Truncated results
    are rejected.
    """
    core = under_test.core()
    output = core.advance({core.add(prompt_of(9)): 0})[-1]
    data = encode(output)
    fields = msgspec.msgpack.decode(data)
    later = msgspec.msgpack.encode([*fields, "a field of a later version"])
    require(
        decode(ModelRunnerOutput, later).step_id == output.step_id,
        "an additional field changes the record",
    )
    try:
        decode(ModelRunnerOutput, data[:-3])
    except msgspec.DecodeError:
        return
    raise CheckFailedError("a truncated record was read")


CHECKS: Sequence[Check] = (
    Check(
        "C-47",
        "robust",
        "compilation while serving is reported and included in the times",
        _compilations,
    ),
    Check(
        "C-49", "robust", "the times of a step are in nanoseconds and explain its duration", _times
    ),
    Check(
        "C-55", "robust", "results survive encoding, also with fields of a later version", _records
    ),
    Check(
        "C-56",
        "robust",
        "random load under the real scheduler matches the reference and leaks nothing",
        _soak,
    ),
    Check(
        "C-53a",
        "robust",
        "health reports whether a worker can serve, and has no side effects",
        _health,
    ),
    Check("C-53b", "robust", "deep health runs the model", _deep_health_of_a_broken_model),
    Check(
        "C-50b",
        "features",
        "tokens that are only on the device are read correctly",
        _device_tokens,
        "device_token",
    ),
)
