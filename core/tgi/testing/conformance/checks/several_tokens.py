"""Checks of rows that sample several tokens: with draft tokens, and with loops on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgi.backend import LogprobsMode, SamplingParams
from tgi.testing.conformance.backend_under_test import BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.live_sequence import Drafter, LiveSequence
from tgi.testing.conformance.require import not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_NUM_TOKENS = 14


def _kinds(core: ScriptedCore) -> list[SamplingParams]:
    """Return parameters for greedy decoding and for sampling, with features that depend on earlier
    tokens.
    """
    agreement = core.agreement
    mode: LogprobsMode = "raw" if agreement.has("logprobs") else "none"
    kinds = [SamplingParams(logprobs=mode)]
    if "temperature" in agreement.sampling:
        kinds.append(SamplingParams(greedy=False, temperature=0.9, logprobs=mode))
    if "repetition_penalty" in agreement.sampling:
        kinds.append(SamplingParams(greedy=len(kinds) < 2, repetition_penalty=1.6, logprobs=mode))
    return kinds


def _draft_token(
    expected: Sequence[int], is_right: Callable[[int], bool], vocab_size: int
) -> Drafter:
    """Propose the expected output tokens, but wrong tokens where `is_right(index)` is false."""

    def draft_token(sequence: LiveSequence) -> list[int]:
        first = len(sequence.output)
        return [
            token if is_right(first + i) else (token + 1) % vocab_size
            for i, token in enumerate(expected[first:])
        ]

    return draft_token


def _drafts(under_test: BackendUnderTest) -> None:
    """With correct and wrong draft tokens, the output does not change, and correct draft tokens are
    accepted.
    """
    core = under_test.core()
    not_applicable(not core.agreement.has("drafts"), "`drafts` was not negotiated")
    most, vocab_size = core.agreement.limits.tokens_per_step, core.agreement.vocab_size
    require(most > 1, "`drafts` with one token per step")
    patterns: list[Callable[[int], bool]] = [
        lambda _: True,
        lambda _: False,
        lambda index: index % 3 != 0,
    ]
    for number, sampling in enumerate(_kinds(core)):
        prompt = prompt_of(13 + number, seed=number)  # drafts extend across a block boundary
        plain = core.add(prompt, sampling, seed=number)
        core.generate([plain], _NUM_TOKENS)
        core.drop(plain)
        for is_right in patterns[: core.agreement.limits.max_sequences]:
            sequence = core.add(prompt, sampling, seed=number)
            sequence.drafter = _draft_token(plain.output, is_right, vocab_size)
            num_steps = 0
            while len(sequence.output) < _NUM_TOKENS:
                num_steps += len(core.advance({sequence: 0}))
            sequence.drafter = None  # rejected drafts must not affect later tokens
            core.generate([sequence], 3)
            check_sequence(under_test.models.get(), sequence, core.agreement)
            if is_right is patterns[0]:
                fewest = 1 - (1 - _NUM_TOKENS) // most
                require(
                    num_steps == fewest,
                    f"{_NUM_TOKENS} tokens took {num_steps} steps instead of {fewest} with drafts",
                )
            core.drop(sequence)


def _drafts_beside_others(under_test: BackendUnderTest) -> None:
    """Rows with draft tokens, rows without and prefills do not affect each other."""
    core = under_test.core()
    not_applicable(not core.agreement.has("drafts"), "`drafts` was not negotiated")
    not_applicable(
        core.agreement.limits.max_sequences < 2, "only one concurrent sequence was negotiated"
    )
    kinds, sequences = _kinds(core), list[LiveSequence]()
    for i in range(min(4, core.agreement.limits.max_sequences)):
        prompt, sampling = prompt_of(5 + 6 * i, seed=i), kinds[i % len(kinds)]
        plain = core.add(prompt, sampling, seed=i)
        core.generate([plain], _NUM_TOKENS)
        core.drop(plain)
        sequences.append(core.add(prompt, sampling, seed=i))
        if i != 2:
            sequences[-1].drafter = _draft_token(
                plain.output, lambda index: index % 5 != 0, core.agreement.vocab_size
            )
        core.generate(sequences, 2)
    core.generate(sequences, 6)
    check_sequences(under_test.models.get(), sequences, core.agreement)


def _masked_drafts(under_test: BackendUnderTest) -> None:
    """Each token of a row is allowed by its own mask, whether or not the token was a draft
    token.
    """
    core = under_test.core()
    not_applicable(not core.agreement.has("drafts"), "`drafts` was not negotiated")
    not_applicable(not core.agreement.has("mask"), "`mask` was not negotiated")
    vocab_size = core.agreement.vocab_size
    allowed = (tuple(range(0, vocab_size, 2)), (11, 12, 13), tuple(range(1, vocab_size, 2)))
    plain = core.add(prompt_of(9))
    plain.allowed = allowed
    core.generate([plain], 9)
    for is_right in (lambda _: True, lambda index: index % 4 != 1):
        sequence = core.add(prompt_of(9))
        sequence.allowed, sequence.drafter = (
            allowed,
            _draft_token(plain.output, is_right, vocab_size),
        )
        core.generate([sequence], 9)
        for index, token in enumerate(sequence.output):
            require(
                token in (sequence.allowed_at(index) or ()),
                f"output token {index} is {token}, which its mask forbids",
            )
        check_sequence(under_test.models.get(), sequence, core.agreement)
        core.drop(sequence)


def _multi_token(under_test: BackendUnderTest) -> None:
    """With different token budgets in one step, no budget is exceeded, and the tokens do not
    change.
    """
    core = under_test.core()
    not_applicable(not core.agreement.has("multi_token"), "`multi_token` was not negotiated")
    most = core.agreement.limits.tokens_per_step
    require(most > 1, "`multi_token` with one token per step")
    kinds, count, num_several = _kinds(core), min(4, core.agreement.limits.max_sequences), 0
    sequences = [
        core.add(prompt_of(4 + 7 * i, seed=i), kinds[i % len(kinds)], seed=i) for i in range(count)
    ]
    for turn in range(8):
        for i, sequence in enumerate(sequences):
            sequence.max_tokens = 1 + (turn + i) % most
        for output in core.advance(dict.fromkeys(sequences, 0)):
            num_several += int((output.token_ptr[1:] - output.token_ptr[:-1] > 1).sum())
    check_sequences(under_test.models.get(), sequences, core.agreement)
    require(num_several > 0, "no row ever sampled several tokens")


def _multi_token_to_the_end(under_test: BackendUnderTest) -> None:
    """The last row of a context may sample fewer tokens than negotiated."""
    core = under_test.core()
    not_applicable(not core.agreement.has("multi_token"), "`multi_token` was not negotiated")
    limits = core.agreement.limits
    num_last = max(limits.tokens_per_step // 2, 1)
    sequence = core.add(
        prompt_of(limits.max_total_tokens - 1 - limits.tokens_per_step - num_last), _kinds(core)[0]
    )
    sequence.max_tokens = limits.tokens_per_step
    while len(sequence.tokens) < limits.max_total_tokens:
        core.advance({sequence: 0})
    check_sequence(under_test.models.get(), sequence, core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-59c",
        "features",
        "draft tokens change no output, and correct ones are accepted",
        _drafts,
        "drafts",
    ),
    Check(
        "C-59d",
        "features",
        "rows with draft tokens do not affect other rows",
        _drafts_beside_others,
        "drafts",
    ),
    Check(
        "C-59e",
        "features",
        "each token of a row with draft tokens has its own mask",
        _masked_drafts,
        "drafts",
    ),
    Check(
        "C-59f",
        "features",
        "several tokens per step equal those of single steps",
        _multi_token,
        "multi_token",
    ),
    Check(
        "C-59g",
        "features",
        "several tokens per step stop at the end of the context",
        _multi_token_to_the_end,
        "multi_token",
    ),
)
