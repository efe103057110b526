"""Samples the tokens of a step in one native call. `tgi.worker.sampling` defines the semantics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from torch import Tensor

from tgi.backend import Float32Array, Int32Array, SamplingParams, empty_float32, empty_int32
from tgi.worker.step_output import NOT_FINITE, NOTHING_ALLOWED, SampledTokens
from tgi_cpu.native_engine import Engine, SamplerHandle
from tgi_cpu.native_records import SAMPLE_RESULT, SAMPLE_ROW
from tgi_torch.sampling.protocols import SampledSequence
from tgi_torch.sampling.sampler_parameters import needs_counts

__all__ = ["BoundRows", "NativeSampler"]

_PROBLEMS = {1: NOT_FINITE, 2: NOTHING_ALLOWED}
_LOGPROBS = {"none": 0, "processed": 1, "raw": 2}


_NO_IDS, _NO_LOGPROBS = empty_int32(), empty_float32()


@final
class NativeSampler:
    """A `TokenSampler` over logits that the native kernels computed.

    The sampler keeps the records of the sampling parameters until a step has other sequences.
    """

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._sampler = engine.sampler(vocab_size)
        self._rows: BoundRows | None = None

    def sample(
        self,
        logits: Tensor,  # float32 [rows, vocab_size]; not changed
        sequences: list[SampledSequence],
        lengths: Sequence[int],
        draws: Float32Array,
        mask: tuple[Sequence[int], Int32Array] | None = None,
    ) -> SampledTokens:
        """Sample one token per row. `mask` contains the constrained rows, and the allowed tokens of
        each of these rows as bits.
        """
        rows = self._rows
        if rows is None or not rows.are_of(sequences, logits):
            rows = self._rows = self.bind(logits, sequences)
        return rows.sample(lengths, draws, mask)

    def bind(self, logits: Tensor, sequences: list[SampledSequence]) -> BoundRows:
        """Create the records of these sequences for repeated sampling from one logits buffer."""
        return BoundRows(logits, sequences, self._sampler)


@final
class BoundRows:
    """The native records of n sequences: their sampling parameters and the last results."""

    def __init__(
        self, logits: Tensor, sequences: list[SampledSequence], sampler: SamplerHandle
    ) -> None:
        params = [sequence.sampling for sequence in sequences]
        self._logits = logits  # keeps the memory of the logits alive
        self._sequences = list(sequences)
        self._sampler = sampler
        self._biases = [_bias_arrays(p) for p in params]  # the records point to these arrays
        self._rows = rows = np.zeros(len(params), SAMPLE_ROW)
        records = [_record(p, biases) for p, biases in zip(params, self._biases, strict=True)]
        for name in records[0] if records else ():
            rows[name] = [record[name] for record in records]
        rows["num_prompt_tokens"] = [sequence.num_prompt_tokens for sequence in sequences]
        self._draws = rows["draw"]
        self._results = results = np.zeros(len(params), SAMPLE_RESULT)
        self._tokens, self._logprobs = results["token"], results["logprob"]
        self._problems, self._num_tops = results["problem"], results["num_tops"]
        self._no_tops = np.zeros(len(params), np.int32)
        self._no_problems = self._problems.tobytes()
        self._has_draws = not all(p.greedy for p in params)
        self._has_tops = any(p.top_n_tokens for p in params)
        self._with_context = [
            i for i, p in enumerate(params) if p.watermark_gamma > 0 or needs_counts(p)
        ]
        self._run = sampler.bind(logits.data_ptr(), logits.stride(0), rows, results)

    def are_of(self, sequences: list[SampledSequence], logits: Tensor) -> bool:
        """Whether the records are for these sequences and this logits buffer."""
        own = self._logits
        is_same = logits.data_ptr() == own.data_ptr() and logits.stride(0) == own.stride(0)
        return is_same and sequences == self._sequences

    def sample(
        self,
        lengths: Sequence[int] | Int32Array,
        draws: Float32Array,
        mask: tuple[Sequence[int], Int32Array] | None = None,
    ) -> SampledTokens:
        """Sample one token per row. See `TokenSampler.sample`."""
        if mask is None:
            return self._sample(lengths, draws)
        constrained, words = mask
        places = np.arange(len(constrained)) * words.strides[0]
        self._rows["mask"][constrained] = words.ctypes.data + places
        try:
            return self._sample(lengths, draws)
        finally:
            self._rows["mask"] = 0  # the mask words are only valid during this step

    def _sample(self, lengths: Sequence[int] | Int32Array, draws: Float32Array) -> SampledTokens:
        if self._has_draws:
            self._draws[:] = draws
        for row in self._with_context:  # sampling these rows needs the preceding token ids
            self._rows["context"][row] = self._sequences[row].tokens.ctypes.data
            self._rows["context_length"][row] = lengths[row]
        self._run()
        tokens, logprobs, problems = self._tokens.copy(), self._logprobs.copy(), self._problems
        if not self._has_tops and problems.tobytes() == self._no_problems:
            return SampledTokens(tokens, logprobs, self._no_tops, _NO_IDS, _NO_LOGPROBS, {})
        counts = self._num_tops.copy()
        tops = self._sampler.tops(len(counts), int(counts.sum()))
        named = {int(row): _PROBLEMS[int(problems[row])] for row in problems.nonzero()[0]}
        return SampledTokens(
            tokens, logprobs, counts, tops["id"].copy(), tops["logprob"].copy(), named
        )


def _bias_arrays(params: SamplingParams) -> tuple[Int32Array, Float32Array]:
    ids, biases = zip(*params.logit_bias, strict=True) if params.logit_bias else ((), ())
    return np.array(ids, np.int32), np.array(biases, np.float32)


def _record(params: SamplingParams, biases: tuple[Int32Array, Float32Array]) -> dict[str, float]:
    """Build the fields of `tgi::SampleRow` that do not change during the sequence."""
    return {
        "watermark_delta": params.watermark_delta,
        "watermark_limit": math.ceil(params.watermark_gamma * 2.0**32),
        "bias_ids": biases[0].ctypes.data,
        "biases": biases[1].ctypes.data,
        "num_biases": len(biases[0]),
        "repetition_penalty": params.repetition_penalty,
        "relative_frequency_penalty": params.relative_frequency_penalty,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "typical_p": params.typical_p,
        "min_p": params.min_p,
        "greedy": params.greedy,
        "has_penalties": needs_counts(params),
        "logprobs": _LOGPROBS[params.logprobs],
        "top_n": params.top_n_tokens if params.logprobs != "none" else 0,
    }
