"""Checks of grammar masks that are sent with their step or after it."""

from __future__ import annotations

from collections.abc import Sequence

from tgi.backend import SamplingParams, StepError
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]


def _inline_masks(under_test: BackendUnderTest) -> None:
    core = under_test.core()
    not_applicable(not core.agreement.has("mask"), "`mask` was not negotiated")
    _check_masks(under_test, core)


def _late_masks(under_test: BackendUnderTest) -> None:
    """Late masks have the same effect as inline masks. If late masks are missing, only their step
    fails.
    """
    core = under_test.core()
    not_applicable(not core.agreement.has("late_mask"), "`late_mask` was not negotiated")
    core.mask_mode = "late"
    _check_masks(under_test, core)
    sequence = core.add(prompt_of(7))
    sequence.allowed = ((7, 9),)
    step = core.build({sequence: 7})
    core.worker.submit(step)
    try:
        output = core.worker.collect()
    except StepError as error:
        require(
            error.retryable,
            "the error of a step whose masks are missing is not marked as retryable",
        )
    else:
        raise CheckFailedError(f"a step whose masks are missing has the result {output}")
    core.forget(step)
    _check_masks(under_test, core)


def _check_masks(under_test: BackendUnderTest, core: ScriptedCore) -> None:
    vocab_size = core.agreement.vocab_size
    allowed = [(7,), (vocab_size - 1,), tuple(range(31, 97)), tuple(range(0, vocab_size, 5)), None]
    can_draw = "temperature" in core.agreement.sampling
    for greedy in (True, False) if can_draw else (True,):
        sequences: list[LiveSequence] = []
        for seed, tokens in enumerate(allowed[: core.agreement.limits.max_sequences]):
            sequences.append(
                core.add(prompt_of(6, seed=seed), SamplingParams(greedy=greedy), seed=seed)
            )
            sequences[-1].allowed = () if tokens is None else (tokens,)
        core.generate(sequences, 4)
        for sequence in sequences:
            if sequence.allowed:
                require(
                    set(sequence.output) <= set(sequence.allowed[0]),
                    f"a forbidden token among {sequence.output}",
                )
        check_sequences(under_test.models.get(), sequences, core.agreement)
        core.drop(*sequences)


CHECKS: Sequence[Check] = (
    Check(
        "C-46a",
        "features",
        "masked rows sample only allowed tokens, and other rows are unaffected",
        _inline_masks,
        "mask",
    ),
    Check(
        "C-46b",
        "features",
        "late masks work, and a step whose masks are missing fails",
        _late_masks,
        "late_mask",
    ),
)
