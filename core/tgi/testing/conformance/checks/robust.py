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
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scheduled import ScheduledRun

__all__ = ["CHECKS"]

_NUM_STEPS = 150


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
    core = under_test.core()
    sequence = core.add(prompt_of(20))
    for _ in range(5):
        began = time.perf_counter_ns()
        outputs = core.advance({sequence: 0})
        wall = time.perf_counter_ns() - began
        for output in outputs:
            times = output.times
            spent = times.prepare + times.forward + times.sample + times.compile
            require(
                spent <= wall, f"the times of a step add up to {spent} ns, but it took {wall} ns"
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


def _prefix_hits(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("prefix_cache"), "`prefix_cache` was not negotiated")
    not_applicable(
        core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
    )
    size = core.agreement.kv_cache.block_size
    prompt = prompt_of(2 * size + 3)
    first = core.add(prompt)
    core.generate([first], 2)
    hit = core.add(
        [*prompt[: 2 * size], *prompt_of(5, seed=8)],
        blocks=first.blocks[:2],
        num_computed_tokens=2 * size,
    )
    core.generate([hit, first], 4)
    check_sequences(under_test.models.get(), [hit, first], core.agreement)


def _block_copies(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("prefix_cache"), "`prefix_cache` was not negotiated")
    not_applicable(
        core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
    )
    size = core.agreement.kv_cache.block_size
    prompt = prompt_of(size + size // 2)
    first = core.add(prompt)
    core.generate([first], 1)
    # The half-filled second block is copied, so that each sequence continues in its own block.
    copied = core.free_blocks.pop()
    core.copies = [(first.blocks[1], copied)]
    tail = prompt_of(4, seed=6)
    fork = core.add(
        [*prompt, *tail], blocks=[*first.blocks[:1], copied], num_computed_tokens=len(prompt)
    )
    core.generate([fork, first], 4)
    check_sequence(under_test.models.get(), fork, core.agreement)
    check_sequence(under_test.models.get(), first, core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-47",
        "robust",
        "compilation while serving is reported and included in the times",
        _compilations,
    ),
    Check("C-49", "robust", "the times of a step are within its duration", _times),
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
        "C-28a",
        "features",
        "a prefix cache hit gives the same tokens as the full computation",
        _prefix_hits,
        "prefix_cache",
    ),
    Check(
        "C-28b",
        "features",
        "a copied block is independent of its source",
        _block_copies,
        "prefix_cache",
    ),
    Check(
        "C-50b",
        "features",
        "tokens that are only on the device are read correctly",
        _device_tokens,
        "device_token",
    ),
)
