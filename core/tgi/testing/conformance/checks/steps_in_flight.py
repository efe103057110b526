"""Checks of several steps in flight: with grammar masks, with draft tokens, with several tokens per
row, and with failures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from tgi.backend import TOKEN_ON_DEVICE, LogprobsMode, SamplingParams, SchedulerOutput, StepError
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.live_sequence import Drafter, LiveSequence
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scheduled import ScheduledRun
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_NUM_TURNS = 6  # number of turns of each group
_NUM_DRAFTED = 20


def _depth(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    depth = core.agreement.limits.depth
    sequences = [core.add(prompt_of(4, seed=i)) for i in range(core.agreement.limits.max_sequences)]
    not_applicable(len(sequences) <= depth, "fewer sequences than steps in flight were negotiated")
    try:
        for sequence in sequences[: depth + 1]:
            core.worker.submit(core.build({sequence: 4}))
    except StepError:
        pass
    else:
        raise CheckFailedError(
            f"{depth + 1} steps in flight were accepted, but {depth} were negotiated"
        )
    under_test.discard()


def _scheduled_steps(under_test: BackendUnderTest) -> None:
    """The real scheduler keeps several steps in flight. The tokens are the same as with one step in
    flight.
    """
    core = _overlapping_core(under_test)
    run = ScheduledRun(core.worker, core.agreement)
    for seed in range(10):
        run.add(prompt_of(3 + 5 * seed, seed=seed), 20, SamplingParams(), seed=seed)
    for _ in range(4):
        run.step()
    run.abort(run.live[0])
    run.finish()
    check_sequences(under_test.models.get(), run.ended, core.agreement)


def _features_together(under_test: BackendUnderTest) -> None:
    """Groups of sequences are interleaved, and each group has one step in flight. Masks, drafts and
    several tokens occur in the same steps. Late masks are sent directly before the result of their
    step is collected, so that the next step has already been submitted.
    """
    core = _overlapping_core(under_test)
    modes = [mode for mode in ("mask", "late_mask") if core.agreement.has(mode)] or ["mask"]
    for mode in modes:
        core.mask_mode = "late" if mode == "late_mask" else "inline"
        depth = core.agreement.limits.depth
        num_each = min(4, core.agreement.limits.max_sequences // depth)
        not_applicable(num_each < 1, "fewer sequences than steps in flight were negotiated")
        groups = [
            [_sequence(core, number, group) for number in range(num_each)] for group in range(depth)
        ]
        in_flight = deque[SchedulerOutput]()
        for _ in range(_NUM_TURNS):
            for group in groups:
                if len(in_flight) == depth:
                    core.collect(in_flight.popleft())
                in_flight.append(core.build(core.next_rows(group)))
                core.submit(in_flight[-1])
        while in_flight:
            core.collect(in_flight.popleft())
        sequences = [sequence for group in groups for sequence in group]
        for sequence in sequences:
            require(bool(sequence.output), "a sequence got no token in its steps")
            _check_allowed(sequence)
        check_sequences(under_test.models.get(), sequences, core.agreement)
        core.drop(*sequences)


def _masks_after_their_steps(under_test: BackendUnderTest) -> None:
    """The real scheduler submits a row of a constrained sequence before the sequence's last token
    is known. The mask follows after the result of the step before. Other rows are unaffected. The
    last sequence runs alone for some steps. Most of its tokens have no mask, so the late masks of
    these steps have no rows.
    """
    core = _overlapping_core(under_test)
    not_applicable(not core.agreement.has("late_mask"), "`late_mask` was not negotiated")
    vocab_size = core.agreement.vocab_size
    thirds = tuple(tuple(range(start, vocab_size, 3)) for start in range(3))
    run = ScheduledRun(core.worker, core.agreement)
    can_draw = "temperature" in core.agreement.sampling
    for number in range(12):
        run.add(
            prompt_of(3 + 5 * number, seed=number),
            14,
            SamplingParams(greedy=number % 4 < 2 or not can_draw),
            seed=number,
            allowed=((), (*thirds, None), (None, None, (11, 12), (vocab_size - 1,)))[number % 3],
        )
    alone = (None, None, None, (11, 12))
    run.add(prompt_of(4, seed=12), 40, SamplingParams(), seed=12, allowed=alone)
    for _ in range(7):
        run.step()
    run.abort(run.live[1])
    run.finish()
    for sequence in run.ended:
        _check_allowed(sequence)
    check_sequences(under_test.models.get(), run.ended, core.agreement)


def _failed_step(under_test: BackendUnderTest) -> None:
    """A step whose masks are missing fails. The step after it, which has a row of the same
    sequence, returns the token of another sequence.
    """
    core = _overlapping_core(under_test)
    not_applicable(not core.agreement.has("late_mask"), "`late_mask` was not negotiated")
    not_applicable(not core.agreement.limits.mixed, "mixed steps were not negotiated")
    core.mask_mode = "late"
    bound, free = core.add(prompt_of(5, seed=2)), core.add(prompt_of(6, seed=1))
    bound.allowed = ((11,),)
    core.worker.submit(core.build({bound: 5}))
    bound.allowed = ()
    bound.output.append(TOKEN_ON_DEVICE)
    bound.num_computed_tokens = 5
    second = core.build({bound: 1, free: 6})
    core.worker.submit(second)
    try:
        core.worker.collect()
    except StepError:
        pass
    else:
        raise CheckFailedError("a step whose masks are missing has a result")
    output = core.worker.collect()
    if output is None or output.step_id != second.step_id:
        raise CheckFailedError("the step after a failed one has no result")
    free.output = output.tokens[output.token_ptr[1] : output.token_ptr[2]].tolist()
    require(len(free.output) == 1, "a failed step took the token of another sequence")
    check_sequence(under_test.models.get(), free, core.agreement)
    under_test.discard()


def _overlapping_core(under_test: BackendUnderTest) -> ScriptedCore:
    core = under_test.core()
    not_applicable(core.agreement.limits.depth < 2, "only one step in flight was negotiated")
    return core


def _sequence(core: ScriptedCore, number: int, group: int) -> LiveSequence:
    """Create a sequence of one kind: with masks, with drafts, with both, or with several tokens per
    step.
    """
    agreement, seed = core.agreement, 10 * group + number
    mode: LogprobsMode = "raw" if agreement.has("logprobs") else "none"
    is_drawn = "temperature" in agreement.sampling and group % 2 == 1
    prompt = prompt_of(4 + 9 * number + group, seed=seed)
    sequence = core.add(prompt, SamplingParams(greedy=not is_drawn, logprobs=mode), seed=seed)
    has_masks = agreement.has("mask") or agreement.has("late_mask")
    if number in (0, 2) and has_masks:
        sequence.allowed = tuple(tuple(range(i, agreement.vocab_size, 3)) for i in range(3))
    if number in (1, 2) and agreement.has("drafts"):
        plain = core.add(prompt, sequence.sampling, seed=seed)
        plain.allowed = sequence.allowed
        core.generate([plain], _NUM_DRAFTED)
        core.drop(plain)
        sequence.drafter = _drafter(plain.output, agreement.vocab_size)
    if number == 3 and agreement.has("multi_token"):
        sequence.max_tokens = agreement.limits.tokens_per_step
    return sequence


def _drafter(expected: Sequence[int], vocab_size: int) -> Drafter:
    """Return a drafter. Every fifth of its draft tokens is wrong."""

    def draft(sequence: LiveSequence) -> list[int]:
        first = len(sequence.output)
        return [
            (token + (index % 5 == 0)) % vocab_size
            for index, token in enumerate(expected[first:], first)
        ]

    return draft


def _check_allowed(sequence: LiveSequence) -> None:
    for index, token in enumerate(sequence.output):
        allowed = sequence.allowed_at(index)
        require(
            allowed is None or token in allowed,
            f"output token {index} is {token}, which its mask forbids",
        )


CHECKS: Sequence[Check] = (
    Check("C-50a", "robust", "more steps in flight than negotiated are rejected", _depth),
    Check(
        "C-50c",
        "features",
        "several steps in flight give the same tokens as one at a time",
        _scheduled_steps,
        "device_token",
    ),
    Check(
        "C-50d",
        "features",
        "masks, drafts and several tokens work with several steps in flight",
        _features_together,
        "device_token",
    ),
    Check(
        "C-50e",
        "features",
        "a failed step fails no other sequence of the steps after it",
        _failed_step,
        "device_token",
    ),
    Check(
        "C-50f",
        "features",
        "masks that follow the result of the step before apply to their rows only",
        _masks_after_their_steps,
        "late_mask",
    ),
)
