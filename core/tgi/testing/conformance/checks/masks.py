"""Checks of grammar masks that are sent with their step or after it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi.backend import GrammarMasks, LogprobsMode, SamplingParams, StepError
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_EOS = 1  # id of the EOS token in the tokenizer of the tiny models
_NUM_KNOWN_TOKENS = 403  # number of ids that the masks may allow
_WIDE_VOCABULARY = 461  # number of ids of the model; no multiple of 32
_MAX_ROWS = 4


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
                    set(sequence.output) <= set(sequence.allowed[0] or ()),
                    f"a forbidden token among {sequence.output}",
                )
        check_sequences(under_test.models.get(), sequences, core.agreement)
        core.drop(*sequences)


def _no_token(under_test: BackendUnderTest) -> None:
    """A mask that allows no token is an error of its row. The core sends no such mask, so the step
    rules are not applied to this mask.
    """
    core = _masked_core(under_test)
    sequences = [core.add(prompt_of(5 + seed, seed=seed)) for seed in range(_num_rows(core))]
    *others, failing = sequences
    for sequence in (failing, *others[1:2]):
        sequence.allowed = ((7,),)
    step = core.build(core.next_rows(sequences))
    row = step.rows.sequence.tolist().index(failing.handle)
    core.rules.submit(step)
    late = core.late_masks.pop(step.step_id, None)
    if late is None:
        core.worker.submit(msgspec.structs.replace(step, masks=_without_tokens(step.masks, row)))
    else:
        core.worker.submit(step)
        core.rules.submit_masks(late)
        core.worker.submit(_without_tokens(late, row))
    core.accept(step, core.worker.collect())
    require(bool(failing.error), "a row without an allowed token has no error")
    core.drop(failing)
    core.generate(others, 3)
    check_sequences(under_test.models.get(), others, core.agreement)


def _without_tokens(masks: GrammarMasks | None, row: int) -> GrammarMasks:
    """Return the masks with a mask of `row` that allows no token."""
    if masks is None:
        raise AssertionError("the step has masks")
    words = masks.words.reshape(len(masks.row), -1).copy()
    words[masks.row == row] = 0
    return msgspec.structs.replace(masks, words=words.reshape(-1))


def _only_end_of_sequence(under_test: BackendUnderTest) -> None:
    """A mask that allows only EOS or another special token gives this token, for all sampling
    parameters. A complete grammar has such a mask.
    """
    core = _masked_core(under_test)
    fields = set(core.agreement.sampling)
    mode: LogprobsMode = "processed" if core.agreement.has("logprobs") else "none"
    variants = [SamplingParams(logprobs=mode)]
    if "temperature" in fields:
        drawn = SamplingParams(greedy=False, temperature=0.5, logprobs=mode)
        variants.append(drawn)
        limits = {"top_k": 1, "top_p": 0.1, "typical_p": 0.1, "min_p": 0.9}
        known = {name: value for name, value in limits.items() if name in fields}
        variants.append(msgspec.structs.replace(drawn, **known))
    if "logit_bias" in fields:
        variants.append(SamplingParams(logit_bias=((_EOS, -100.0), (0, -100.0))))
    for first in range(0, len(variants), _num_rows(core)):
        sequences = [
            core.add(prompt_of(4 + place, seed=place), sampling, seed=place)
            for place, sampling in enumerate(variants[first : first + _num_rows(core)])
        ]
        for place, sequence in enumerate(sequences):
            sequence.allowed = ((_EOS,), (0,)) if place % 2 == 0 else ((_EOS,),)
        core.generate(sequences, 3)
        for sequence in sequences:
            require(not sequence.error, f"a row that may sample only EOS failed: {sequence.error}")
            expected = [(sequence.allowed_at(i) or ())[0] for i in range(len(sequence.output))]
            require(
                sequence.output == expected,
                f"the tokens {sequence.output} were sampled, but the masks allow only {expected}",
            )
        check_sequences(under_test.models.get(), sequences, core.agreement)
        core.drop(*sequences)


def _ids_without_a_token(under_test: BackendUnderTest) -> None:
    """A model may have more ids than its tokenizer, and the number of ids may not be a multiple of
    32. The masks never allow the additional ids, although the model prefers them.
    """
    model = under_test.models.get(vocab_size=_WIDE_VOCABULARY)
    not_applicable(not under_test.supports(model), "the backend rejects this number of ids")
    not_applicable("logit_bias" not in under_test.agreement().sampling, "no `logit_bias`")
    with under_test.serving(model) as core:
        has_masks = core.agreement.has("mask") or core.agreement.has("late_mask")
        not_applicable(not has_masks, "neither `mask` nor `late_mask` was negotiated")
        core.mask_mode = "inline" if core.agreement.has("mask") else "late"
        known, vocab_size = _NUM_KNOWN_TOKENS, core.agreement.vocab_size
        preferred = (known - 1, known, known + 1, vocab_size - 2, vocab_size - 1)
        bias = tuple((token, 50.0) for token in preferred[1:])
        can_draw = "temperature" in core.agreement.sampling
        sequences = [
            core.add(
                prompt_of(5 + seed, seed=seed),
                SamplingParams(greedy=seed % 2 == 0 or not can_draw, logit_bias=bias),
                seed=seed,
            )
            for seed in range(_num_rows(core))
        ]
        for sequence in sequences[:-1]:
            sequence.allowed = (tuple(range(known)), tuple(range(known - 33, known)))
        core.generate(sequences, 4)
        for sequence in sequences[:-1]:
            unknown = [token for token in sequence.output if token >= known]
            require(not unknown, f"the ids {unknown} were sampled, but the masks forbid them")
        unconstrained = sequences[-1].output
        require(
            set(unconstrained) <= set(preferred[1:]),
            f"the tokens {unconstrained} of an unconstrained row are not the preferred ones",
        )
        check_sequences(model, sequences, core.agreement)


def _masked_core(under_test: BackendUnderTest) -> ScriptedCore:
    core = under_test.core()
    has_masks = core.agreement.has("mask") or core.agreement.has("late_mask")
    not_applicable(not has_masks, "neither `mask` nor `late_mask` was negotiated")
    core.mask_mode = "inline" if core.agreement.has("mask") else "late"
    return core


def _num_rows(core: ScriptedCore) -> int:
    """Return the number of rows that one step of short prompts may have, at most 4."""
    limits = core.agreement.limits
    return min(_MAX_ROWS, limits.max_sequences, limits.max_prefills or _MAX_ROWS)


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
    Check(
        "C-46c",
        "features",
        "a mask that allows no token is an error of its row only",
        _no_token,
        "mask",
    ),
    Check(
        "C-46d",
        "features",
        "a mask that allows only EOS gives EOS",
        _only_end_of_sequence,
        "mask",
    ),
    Check(
        "C-46e",
        "features",
        "masks forbid the ids of the model that the tokenizer does not have",
        _ids_without_a_token,
        "mask",
    ),
)
