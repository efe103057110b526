"""Checks with a large model at the maximum values of the limits that the backend chose itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tgi.backend import RequestedLimits, SamplingParams
from tgi.testing.conformance.backend_under_test import (
    REQUESTED,
    REQUESTED_LARGE,
    BackendUnderTest,
    prompt_of,
)
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence, check_sequences
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.models import LARGE, TinyModel
from tgi.testing.conformance.require import not_applicable, require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = ["CHECKS"]

_MOST_LONG_OUTPUT = 640
_MOST_MASKED = 3  # rows with a mask
_INTEGER_BORDERS = (1 << 15, 1 << 16)  # a smaller integer type cannot contain these ids


@final
@dataclass(frozen=True)
class _Large:
    """The large model and its worker."""

    model: TinyModel
    core: ScriptedCore

    @classmethod
    def of(cls, under_test: BackendUnderTest) -> _Large:
        model = under_test.models.large()
        not_applicable(not under_test.supports(model), "the large model is not supported")
        return cls(model, under_test.large_core())

    def prompt(self, length: int, seed: int) -> list[int]:
        return prompt_of(length, seed, self.model.spec.vocab_size)

    @property
    def greedy(self) -> SamplingParams:
        return _greedy(self.core)

    def check(self, *sequences: LiveSequence) -> None:
        check_sequences(self.model, sequences, self.core.agreement)
        self.core.drop(*sequences)


def _greedy(core: ScriptedCore) -> SamplingParams:
    return SamplingParams(logprobs="raw" if core.agreement.has("logprobs") else "none")


def _largest_batch(under_test: BackendUnderTest) -> None:
    """The rows of the first batch have the same parameters, those of the second batch have
    different ones. The handles are spread over a large range.
    """
    large = _Large.of(under_test)
    core, count = large.core, large.core.agreement.limits.max_sequences
    for cases in ([large.greedy], _various(large)):
        sequences = []
        for i in range(count):
            sampling = cases[i % len(cases)]
            sequences.append(core.add(large.prompt(2 + i % 5, seed=i), sampling, seed=i))
            if len(cases) > 1 and core.agreement.has("mask") and i % len(cases) == 0:
                sequences[-1].allowed = ((1000 * i + 7, 3), (9, 65_000 - i))
        core.generate(sequences, 3)
        large.check(*sequences)


def _various(large: _Large) -> list[SamplingParams]:
    """Sampling parameters for consecutive rows, of the fields that were negotiated."""
    fields, logprobs = set(large.core.agreement.sampling), large.greedy.logprobs
    cases = {
        "": large.greedy,
        "temperature": SamplingParams(greedy=False, temperature=0.8, logprobs=logprobs),
        "logit_bias": SamplingParams(logit_bias=((60_000, 30.0),), logprobs=logprobs),
        "repetition_penalty": SamplingParams(repetition_penalty=1.7, logprobs=logprobs),
        "top_n_tokens": SamplingParams(logprobs="raw", top_n_tokens=3),
    }
    return [case for field, case in cases.items() if not field or field in fields]


def _largest_step(under_test: BackendUnderTest) -> None:
    """A step has exactly the maximum number of tokens, in one row and in several rows."""
    large = _Large.of(under_test)
    core, limits = large.core, large.core.agreement.limits
    longest = limits.max_total_tokens - 2
    lengths = [[min(limits.max_step_tokens, longest)]]
    most_rows = min(limits.max_sequences, limits.max_prefills or limits.max_sequences)
    if most_rows > 1 and limits.max_step_tokens >= 2 * most_rows:
        for rows in {2, most_rows}:
            if limits.max_step_tokens <= rows * longest:
                each = limits.max_step_tokens // rows
                lengths.append([each] * (rows - 1) + [limits.max_step_tokens - each * (rows - 1)])
    for number, row_lengths in enumerate(lengths):
        sequences = [
            core.add(large.prompt(length, seed=16 * number + i), large.greedy)
            for i, length in enumerate(row_lengths)
        ]
        core.step(dict.fromkeys(sequences, 0))
        core.generate(sequences[-1:], 2)
        large.check(*sequences)


def _longest_sequence(under_test: BackendUnderTest) -> None:
    """The prompt is computed in chunks of random sizes, if chunks were negotiated."""
    large = _Large.of(under_test)
    core, limits = large.core, large.core.agreement.limits
    length = limits.max_total_tokens - 3
    if not limits.chunked:
        length = min(length, limits.max_step_tokens)
    rng = random.Random(7)  # noqa: S311 - for random sizes, not for a secret
    sequence = core.add(large.prompt(length, seed=1), large.greedy)
    multiple = limits.chunk_multiple
    while limits.chunked and sequence.num_left > multiple:
        most = min(limits.max_step_tokens, sequence.num_left - 1, length // 3) // multiple
        core.advance({sequence: multiple * rng.randint(1, max(1, most))})
    core.generate([sequence], 3)
    large.check(sequence)


def _block_ids(under_test: BackendUnderTest) -> None:
    """Sequences use the highest blocks at the same time as the blocks whose ids are equal in the
    lower bits. If a backend shortens an id, two sequences share a block.
    """
    large = _Large.of(under_test)
    core, plan = large.core, large.core.agreement.kv_cache
    not_applicable(plan.mode != "paged", "the cache has sequence slots, not blocks")
    last = len(core.free_blocks) - 1
    powers = [1 << bits for bits in range(3, last.bit_length())]
    ids = dict.fromkeys([last, *(last % power for power in powers), last - 1, 0])
    ids = dict.fromkeys(list(ids)[: core.agreement.limits.max_sequences])
    length = min(plan.block_size, 12) - 3
    sequences = [
        core.add(large.prompt(max(length, 1), seed=block), large.greedy, blocks=[block])
        for block in ids
        if block >= 0
    ]
    for sequence in sequences:  # one after the other, so that a shared block has old content
        core.generate([sequence], 1)
    core.generate(sequences, 2)
    large.check(*sequences)


def _token_ids(under_test: BackendUnderTest) -> None:
    """The prompt, the bias, the mask, the penalty and the top tokens contain the highest ids."""
    large = _Large.of(under_test)
    core, agreement = large.core, large.core.agreement
    size = large.model.spec.vocab_size
    ids = sorted({size - 1, size - 2} | {b + s for b in _INTEGER_BORDERS for s in (-1, 0, 1)})
    fields = agreement.sampling
    cases = [large.greedy]
    if "logit_bias" in fields:
        cases += [SamplingParams(logit_bias=((token, 90.0),)) for token in ids]
    if "repetition_penalty" in fields:
        cases.append(SamplingParams(repetition_penalty=1.5, logprobs=large.greedy.logprobs))
    if "top_n_tokens" in fields:
        cases.append(SamplingParams(logprobs="raw", top_n_tokens=2))
    if {"temperature", "top_k"} <= set(fields):
        cases.append(SamplingParams(greedy=False, temperature=0.7, top_k=10))
    masked: list[tuple[tuple[int, ...], ...]] = [() for _ in cases]
    if agreement.has("mask"):
        for place in range(_MOST_MASKED):
            cases.append(large.greedy)
            masked.append(tuple((token,) for token in (ids[place], ids[-1], ids[2])))
    most = agreement.limits.max_sequences
    for start in range(0, len(cases), most):
        sequences = []
        for number, case in list(enumerate(cases))[start : start + most]:
            sequences.append(core.add([*ids, 5 + number], case, seed=number))
            sequences[-1].allowed = masked[number]
        core.generate(sequences, 3)
        large.check(*sequences)


def _long_outputs(under_test: BackendUnderTest) -> None:
    model = under_test.models.get("llama", max_position_embeddings=LARGE["max_position_embeddings"])
    requested = RequestedLimits(
        max_concurrent_requests=2,
        model_max_total_tokens=REQUESTED_LARGE.model_max_total_tokens,
        features=REQUESTED.features,
    )
    with under_test.serving(model, requested) as core:
        sequence = core.add(prompt_of(4), _greedy(core))
        count = min(_MOST_LONG_OUTPUT, core.agreement.limits.max_total_tokens - 5)
        core.generate([sequence], count)
        require(len(sequence.output) == count, f"{len(sequence.output)} of {count} tokens")
        check_sequence(model, sequence, core.agreement)


CHECKS: Sequence[Check] = (
    Check(
        "C-61a",
        "basic",
        "a large model matches in the longest sequence, computed in chunks of any size",
        _longest_sequence,
    ),
    Check("C-61b", "basic", "long outputs match the reference", _long_outputs),
    Check(
        "C-61c",
        "basic",
        "the highest token ids work in prompts, outputs, masks and sampling",
        _token_ids,
    ),
    Check(
        "C-61d",
        "serving",
        "every row of the largest negotiated batch matches the reference",
        _largest_batch,
    ),
    Check(
        "C-61e",
        "serving",
        "a step of exactly the negotiated number of tokens matches the reference",
        _largest_step,
    ),
    Check(
        "C-61f",
        "serving",
        "the highest negotiated block and blocks with similar ids are independent",
        _block_ids,
    ),
)
