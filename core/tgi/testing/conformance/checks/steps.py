"""Checks of steps: prompts, decoding, batches, handles, dropped sequences, prefill chunks and mixed
steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from tgi.backend import SamplingParams, SchedulerOutput, StepError
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS", "border_lengths"]

_DRAWN = SamplingParams(greedy=False)


def border_lengths(core: ScriptedCore) -> list[int]:
    """Prompt lengths near boundaries: blocks, powers of two, and the maximum length."""
    limits, block_size = core.agreement.limits, core.agreement.kv_cache.block_size or 16
    longest = limits.max_total_tokens - 2
    if not limits.chunked:
        longest = min(longest, limits.max_step_tokens)
    borders = {1, 2, block_size, 2 * block_size, 32, 64, longest}
    near = {border + shift for border in borders for shift in (-1, 0, 1)}
    return sorted(length for length in near if 1 <= length <= longest)


def _greedy(under_test: BackendUnderTest) -> SamplingParams:
    """Return greedy parameters. If log probabilities were negotiated, they are requested, because
    they show smaller errors than tokens do.
    """
    return SamplingParams(logprobs="raw" if under_test.agreement().has("logprobs") else "none")


def _prompts_of_every_length(under_test: BackendUnderTest) -> None:
    core, sampling = under_test.core(), _greedy(under_test)
    for length in border_lengths(core):
        sequence = core.add(prompt_of(length), sampling)
        core.generate([sequence], 2)
        check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(sequence)


def _decoding_across_borders(under_test: BackendUnderTest) -> None:
    core, sampling = under_test.core(), _greedy(under_test)
    sequence = core.add(prompt_of(5), sampling)
    core.generate([sequence], core.agreement.limits.max_total_tokens - 5)
    check_sequence(under_test.models.get(), sequence, core.agreement)


def _batch_independence(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    most = min(core.agreement.limits.max_sequences, 8)
    for count in sorted({1, 2, 3, most}):
        sequences = [
            core.add(prompt_of(3 + 7 * i, seed=i), _greedy(under_test))
            for i in range(min(count, most))
        ]
        core.generate(sequences, 4)
        check_sequences(under_test.models.get(), sequences, core.agreement)
        core.drop(*sequences)


def _order_of_rows(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    count = min(core.agreement.limits.max_sequences, 4)
    not_applicable(count < 2, "only one concurrent sequence was negotiated")
    sequences = [core.add(prompt_of(4 + i, seed=i), _greedy(under_test)) for i in range(count)]
    core.generate(sequences, 1)
    rng = random.Random(1)  # noqa: S311 - for a random order, not for a secret
    for _ in range(4):
        core.generate(rng.sample(sequences, count), 1)
    check_sequences(under_test.models.get(), sequences, core.agreement)


def _reuse(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    model = under_test.models.get()
    biased = (
        SamplingParams(logit_bias=((7, 50.0),))
        if "logit_bias" in core.agreement.sampling
        else SamplingParams()
    )
    for round_ in range(3):
        canary = core.add(prompt_of(40, seed=round_), biased, handle=3)
        core.generate([canary], 3)
        core.drop(canary)
        # The step that drops a sequence also introduces the next owner of its handle and blocks.
        heir = core.add(prompt_of(9 + 16 * round_, seed=90 + round_), _greedy(under_test), handle=3)
        require(
            not heir.blocks or set(heir.blocks) <= set(canary.blocks),
            "the suite must allocate the same blocks again",
        )
        core.generate([heir], 3)
        check_sequence(model, heir, core.agreement)
        core.drop(heir)


def _slots(under_test: BackendUnderTest) -> None:
    """Several sequences use slots in random order. Then shorter sequences use these slots in
    reverse order.
    """
    core = under_test.core()
    plan = core.agreement.kv_cache
    not_applicable(plan.mode != "slots", "the cache has blocks, not sequence slots")
    count = min(core.agreement.limits.max_sequences, plan.num_sequence_slots)
    first = [core.add(prompt_of(30, seed=i), _greedy(under_test)) for i in range(count)]
    core.generate(first, 2)
    check_sequences(under_test.models.get(), first, core.agreement)
    sequence_slots = {sequence.sequence_slot for sequence in first}
    core.drop(*first)
    second = [core.add(prompt_of(3 + i, seed=50 + i), _greedy(under_test)) for i in range(count)]
    require(
        {sequence.sequence_slot for sequence in second} == sequence_slots,
        "the suite must allocate the same slots again",
    )
    core.generate(second, 12)
    check_sequences(under_test.models.get(), second, core.agreement)


def _unsampled_rows(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.limits.chunked, "prefill chunks were not negotiated")
    multiple = core.agreement.limits.chunk_multiple
    sequence = core.add(prompt_of(3 * multiple + 5), _greedy(under_test))
    outputs = core.advance({sequence: multiple})
    require(not any(len(output.tokens) for output in outputs), "a row with `sample` 0 got a token")
    core.generate([sequence], 4)
    check_sequence(under_test.models.get(), sequence, core.agreement)


def _random_chunks(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    limits = core.agreement.limits
    not_applicable(not limits.chunked, "prefill chunks were not negotiated")
    rng = random.Random(2)  # noqa: S311 - for random sizes, not for a secret
    length = min(75, limits.max_total_tokens - 4)
    for seed in range(4):
        sequence = core.add(prompt_of(length, seed=seed), _greedy(under_test))
        while sequence.num_left > limits.chunk_multiple and not sequence.output:
            most = (sequence.num_left - 1) // limits.chunk_multiple
            core.advance(
                {
                    sequence: (
                        limits.chunk_multiple
                        * rng.randint(1, max(1, min(most, 24 // limits.chunk_multiple)))
                    )
                }
            )
        core.generate([sequence], 3)
        check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(sequence)


def _mixed_steps(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    limits = core.agreement.limits
    not_applicable(not limits.mixed, "prefill and decode rows in one step were not negotiated")
    not_applicable(limits.max_sequences < 2, "only one concurrent sequence was negotiated")
    rng = random.Random(3)  # noqa: S311 - for random sizes, not for a secret
    running: list[LiveSequence] = []
    ended: list[LiveSequence] = []
    for seed in range(8):
        if len(running) == min(limits.max_sequences, 4):
            ended.append(running.pop(0))
            check_sequence(under_test.models.get(), ended[-1], core.agreement)
            core.drop(ended[-1])
        running.append(core.add(prompt_of(rng.randint(1, 40), seed=seed), _greedy(under_test)))
        core.generate(running, rng.randint(1, 3))
    check_sequences(under_test.models.get(), running, core.agreement)


def _empty_and_full_steps(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    limits = core.agreement.limits
    output = core.run(core.build({}))
    require(not len(output.sequence), "the result of an empty step has rows")
    sequence = core.add(prompt_of(3))
    core.generate([sequence], 1)
    core.drop(sequence)
    core.run(core.build({}))  # contains only a drop
    length = min(limits.max_step_tokens, limits.max_total_tokens - 1)
    full = core.add(prompt_of(length), _greedy(under_test))
    core.generate([full], 1)
    check_sequence(under_test.models.get(), full, core.agreement)


def _refusals(under_test: BackendUnderTest) -> None:
    """Each invalid step is rejected with `StepError`, and another sequence continues."""
    core = under_test.core()
    bystander = core.add(prompt_of(6), _greedy(under_test))
    core.generate([bystander], 1)
    broken: dict[str, Callable[[ScriptedCore], SchedulerOutput]] = {
        "a row of a sequence that was not introduced": _with_a_stranger,
        "a step with more tokens than negotiated": _with_too_many_tokens,
        "a step with more sequences than negotiated": _with_too_many_sequences,
    }
    for what, build in broken.items():
        step = build(core)
        try:
            core.worker.submit(step)
            core.worker.collect()
        except StepError:
            pass
        else:
            raise CheckFailedError(f"{what} was accepted without a `StepError`")
        core.forget(step)
        core.generate([bystander], 1)
        check_sequence(under_test.models.get(), bystander, core.agreement)


def _refused_drops(under_test: BackendUnderTest) -> None:
    """More sequences are dropped by rejected steps than the worker can have at once."""
    core = under_test.core()
    limit = core.agreement.limits.max_sequences
    for number in range(limit + 1):
        sequence = core.add(prompt_of(5, seed=number))
        core.generate([sequence], 1)
        core.drop(sequence)
        # Use another handle for the rejected sequence, because the core drops that handle again.
        core.free_handles.insert(0, core.free_handles.pop())
        step = _with_too_many_tokens(core)
        require(sequence.handle in step.dropped, "the suite must drop a sequence with the step")
        try:
            core.worker.submit(step)
            core.worker.collect()
        except StepError:
            core.forget(step)
    sequences = [
        core.add(prompt_of(3 + i, seed=i), _greedy(under_test), handle=core.free_handles[i])
        for i in range(limit)
    ]
    core.generate(sequences, 2)
    check_sequences(under_test.models.get(), sequences, core.agreement)


def _with_a_stranger(core: ScriptedCore) -> SchedulerOutput:
    stranger = core.add(prompt_of(4))
    step = core.build({stranger: 4})
    stranger.num_introduced_tokens = 0
    core.drop(stranger)
    return msgspec.structs.replace(step, added=[])


def _with_too_many_tokens(core: ScriptedCore) -> SchedulerOutput:
    step = core.build({core.add(prompt_of(4)): 4})
    count = core.agreement.limits.max_step_tokens + 1
    tokens = np.full(count, 5, np.int32)
    rows = msgspec.structs.replace(step.rows, count=np.array([count], np.int32), tokens=tokens)
    return msgspec.structs.replace(step, rows=rows)


def _with_too_many_sequences(core: ScriptedCore) -> SchedulerOutput:
    """Build a step with one sequence more than negotiated."""
    return core.build({core.add([5]): 1 for _ in range(core.agreement.limits.max_sequences)})


def _preemption(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    drawn = _DRAWN if "temperature" in core.agreement.sampling else SamplingParams()
    for sampling in (_greedy(under_test), drawn):
        sequence = core.add(prompt_of(21), sampling, seed=5)
        core.generate([sequence], 6)
        check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(sequence)
        again = core.add(sequence.prompt, sampling, seed=5, output=sequence.output)
        core.generate([again], 6)
        check_sequence(under_test.models.get(), again, core.agreement)
        core.drop(again)


def _cancellations(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    rng = random.Random(4)  # noqa: S311 - for random choices, not for a secret
    most = min(core.agreement.limits.max_sequences, 6)
    live: list[LiveSequence] = []
    for step in range(60):
        while len(live) < most and rng.random() < 0.7:
            live.append(
                core.add(
                    prompt_of(rng.randint(1, 30), seed=step * 10 + len(live)), _greedy(under_test)
                )
            )
        if live:
            core.generate(rng.sample(live, rng.randint(1, len(live))), 1)
        for sequence in [s for s in live if rng.random() < 0.25]:
            live.remove(sequence)
            core.drop(sequence)
            if rng.random() < 0.2:
                check_sequence(under_test.models.get(), sequence, core.agreement)
    check_sequences(under_test.models.get(), [s for s in live if s.output], core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-17",
        "basic",
        "prompts of every boundary length match the reference",
        _prompts_of_every_length,
    ),
    Check(
        "C-18",
        "basic",
        "decoding to the end of the context matches the reference",
        _decoding_across_borders,
    ),
    Check(
        "C-22",
        "basic",
        "a row that samples no token stores correct keys and values",
        _unsampled_rows,
    ),
    Check(
        "C-25",
        "basic",
        "empty steps, steps with drops only and the largest step are accepted",
        _empty_and_full_steps,
    ),
    Check(
        "C-19",
        "serving",
        "a sequence has the same tokens alone and in a batch",
        _batch_independence,
    ),
    Check(
        "C-20",
        "serving",
        "the order of rows and the values of handles have no effect",
        _order_of_rows,
    ),
    Check(
        "C-21", "serving", "reused handles, blocks and sequence slots contain no old data", _reuse
    ),
    Check(
        "C-23", "serving", "a prompt in chunks of any size gives the same tokens", _random_chunks
    ),
    Check("C-24", "serving", "mixed steps give the same tokens as separate steps", _mixed_steps),
    Check(
        "C-26",
        "serving",
        "steps beyond the negotiated limits are rejected without other effects",
        _refusals,
    ),
    Check(
        "C-26b",
        "serving",
        "a rejected step drops the sequences that it names",
        _refused_drops,
    ),
    Check("C-27", "serving", "preemption does not change a sequence's tokens", _preemption),
    Check(
        "C-29", "serving", "any sequence may use any sequence slot, and no old data remains", _slots
    ),
    Check(
        "C-30",
        "serving",
        "sequences match the reference while many others are cancelled",
        _cancellations,
    ),
)
