"""Chooses tokens in one native call per step, with the semantics of `tgi.backend.sampling`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
from torch import Tensor

from tgi.backend import Float32Array, Int32Array, SamplingParams, empty_float32, empty_int32
from tgi_cpu.native import SAMPLE_RESULT, SAMPLE_ROW, Engine
from tgi_torch.sampling import NOT_FINITE, NOTHING_ALLOWED, SampledSequence, SampledTokens, needs_counts

__all__ = ["NativeSampler"]

_PROBLEMS = {1: NOT_FINITE, 2: NOTHING_ALLOWED}
_LOGPROBS = {"none": 0, "processed": 1, "raw": 2}


@final
class NativeSampler:
    """A `TokenSampler` over logits in the kernels' memory. Parameters stay as records while the batch keeps its sequences."""

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._sampler = engine.sampler(vocab_size)
        self._sequences: list[SampledSequence] = []
        self._rows = np.zeros(0, SAMPLE_ROW)
        self._results = np.zeros(0, SAMPLE_RESULT)
        self._no_tops = empty_int32()  # [rows] zeros
        self._has_draws = self._has_tops = False
        self._biases: list[tuple[Int32Array, Float32Array]] = []  # what the records point to
        self._with_context: list[int] = []  # rows that read the ids before them

    def sample(
        self,
        logits: Tensor,  # float32 [rows, vocab_size]; not changed
        sequences: list[SampledSequence],
        lengths: Sequence[int],
        draws: Float32Array,
        mask: tuple[Sequence[int], Int32Array] | None = None,
    ) -> SampledTokens:
        """Choose a token for each row."""
        if sequences != self._sequences:
            self._take(sequences)
        rows = self._rows
        if self._has_draws:
            rows["draw"] = draws
        for row in self._with_context:
            rows["context"][row] = sequences[row].tokens.ctypes.data
            rows["context_length"][row] = lengths[row]
        if mask is not None:
            constrained, words = mask
            rows["mask"][constrained] = words.ctypes.data + np.arange(len(constrained)) * words.strides[0]
        self._sampler.sample(logits.data_ptr(), logits.stride(0), rows, self._results)
        if mask is not None:
            rows["mask"] = 0  # the words live as long as the step
        return self._report()

    def _take(self, sequences: list[SampledSequence]) -> None:
        params = [sequence.sampling for sequence in sequences]
        self._sequences = list(sequences)
        self._results = np.zeros(len(params), SAMPLE_RESULT)
        self._no_tops = np.zeros(len(params), np.int32)
        self._has_draws = not all(p.greedy for p in params)
        self._has_tops = any(p.top_n_tokens for p in params)
        self._biases = [_bias_arrays(p) for p in params]
        records = [_record(p, biases) for p, biases in zip(params, self._biases, strict=True)]
        self._rows = np.zeros(len(params), SAMPLE_ROW)
        for name in records[0] if records else ():
            self._rows[name] = [record[name] for record in records]
        self._rows["num_prompt_tokens"] = [sequence.num_prompt_tokens for sequence in sequences]
        self._with_context = [i for i, p in enumerate(params) if p.watermark_gamma > 0 or needs_counts(p)]

    def _report(self) -> SampledTokens:
        results = self._results
        top_counts = results["num_tops"].copy() if self._has_tops else self._no_tops
        tops = self._sampler.tops(len(results), int(top_counts.sum())) if self._has_tops else None
        problem = results["problem"]
        return SampledTokens(
            tokens=results["token"].copy(),
            logprobs=results["logprob"].copy(),
            top_counts=top_counts,
            top_ids=empty_int32() if tops is None else tops["id"].copy(),
            top_logprobs=empty_float32() if tops is None else tops["logprob"].copy(),
            problems={int(row): _PROBLEMS[int(problem[row])] for row in problem.nonzero()[0]} if problem.any() else {},
        )


def _bias_arrays(params: SamplingParams) -> tuple[Int32Array, Float32Array]:
    ids, biases = zip(*params.logit_bias, strict=True) if params.logit_bias else ((), ())
    return np.array(ids, np.int32), np.array(biases, np.float32)


def _record(params: SamplingParams, biases: tuple[Int32Array, Float32Array]) -> dict[str, float]:
    """The fields of `tgi::SampleRow` that last as long as the sequence."""
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
