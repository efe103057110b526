"""Samples tokens for a batch of rows, with the semantics of `tgi.testing.sampling`.

A processor runs only on the rows that need it. No row reads data of another row, so a row's result
does not depend on other rows. For a batch of greedy rows without penalties, only one argmax is
computed. The parameters are kept as tensors until a step has other sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.backend import Float32Array, Int32Array
from tgi.worker.step_output import NOT_FINITE, NOTHING_ALLOWED, SampledTokens
from tgi_torch.sampling.logits_processors import (
    allowed_tokens,
    cut_atypical,
    cut_below_min_p,
    cut_below_top_k,
    cut_outside_nucleus,
    favour_green_tokens,
    penalize_repetition,
    vocabulary_hash,
)
from tgi_torch.sampling.protocols import SampledSequence
from tgi_torch.sampling.sampler_parameters import BatchParameters, TokenCounts

__all__ = ["NUMPY_KERNELS", "Sampler", "SamplingKernels"]


def _argmax(scores: Tensor) -> Tensor:
    return scores.argmax(-1)


def _sort(values: Tensor) -> Tensor:
    return values.sort(dim=-1).values


@final
@dataclass(frozen=True)
class SamplingKernels:
    """Two operations that a device may replace with faster implementations.

    `argmax` returns the lowest id with the maximum score, int64 [rows]. `sort` is ascending.
    """

    argmax: Callable[[Tensor], Tensor] = _argmax
    sort: Callable[[Tensor], Tensor] = _sort


def _argmax_in_numpy(scores: Tensor) -> Tensor:
    return torch.from_numpy(scores.numpy().argmax(-1))


def _sort_in_numpy(values: Tensor) -> Tensor:
    return torch.from_numpy(np.sort(values.numpy(), -1))


NUMPY_KERNELS = SamplingKernels(argmax=_argmax_in_numpy, sort=_sort_in_numpy)
"""For scores in the memory of the CPU. On rows of a vocabulary, numpy finds the maximum about ten
times as fast as torch, and sorts about thirty times as fast.
"""


@final
class Sampler:
    """A `TokenSampler` that uses torch operations.

    The sampler keeps the parameters of the last batch and has no random generator.
    """

    def __init__(
        self, vocab_size: int, device: torch.device, kernels: SamplingKernels = SamplingKernels()
    ) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._kernels = kernels
        self._token_hash: Tensor | None = None
        self._sequences: list[SampledSequence] = []
        self._parameters = BatchParameters([], vocab_size, device)

    def sample(
        self,
        logits: Tensor,
        sequences: list[SampledSequence],
        lengths: Sequence[int],
        draws: Float32Array,
        mask: tuple[Sequence[int], Int32Array] | None = None,
    ) -> SampledTokens:
        """Sample a token for each row, as described in `TokenSampler`."""
        if sequences != self._sequences:
            self._parameters = BatchParameters(
                [s.sampling for s in sequences], self._vocab_size, self._device
            )
            self._sequences = list(sequences)
        parameters = self._parameters
        scores = self._before_warpers(logits, parameters, lengths, mask)
        tokens, final = self._choose(scores, parameters, draws)
        problems = self._problems(logits, scores, tokens if parameters.num_drawn == 0 else None)
        return self._report(logits, final, tokens, problems)

    def _before_warpers(
        self,
        logits: Tensor,
        parameters: BatchParameters,
        lengths: Sequence[int],
        mask: tuple[Sequence[int], Int32Array] | None,
    ) -> Tensor:
        """Compute the scores after watermark, bias, penalties and mask.

        Returns `logits` itself if no row needs any of these processors.
        """
        if not parameters.changes_scores and mask is None:
            return logits
        scores = logits.clone()
        if parameters.watermark is not None:
            scores = parameters.watermark.apply(scores, self._watermark(parameters, lengths))
        if parameters.bias is not None:
            rows, tokens, biases = parameters.bias
            scores.index_put_((rows, tokens), biases, accumulate=True)
        if parameters.counts is not None:
            counts = parameters.counts
            counts.update(self._sequences, lengths)
            scores[counts.rows] = self._penalize(scores[counts.rows], parameters, counts)
        if mask is not None:
            rows_masked, words = mask
            allowed = allowed_tokens(torch.from_numpy(words).to(self._device), self._vocab_size)
            index = torch.tensor(rows_masked, device=self._device)
            scores[index] = torch.where(allowed, scores[index], float("-inf"))
        return scores

    def _watermark(
        self, parameters: BatchParameters, lengths: Sequence[int]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        if self._token_hash is None:
            self._token_hash = vocabulary_hash(self._vocab_size, self._device)
        token_hash = self._token_hash
        ids = [
            [int(self._sequences[row].tokens[lengths[row] - 1])]
            for row in parameters.watermark_rows
        ]
        previous = torch.tensor(ids, dtype=torch.int64, device=self._device)
        return lambda scores, delta: favour_green_tokens(
            scores, token_hash, previous, parameters.watermark_limit, delta
        )

    @staticmethod
    def _penalize(scores: Tensor, parameters: BatchParameters, counts: TokenCounts) -> Tensor:
        scores = penalize_repetition(scores, counts.context, parameters.repetition)
        lengths = torch.tensor(
            counts.num_counted, dtype=torch.float32, device=scores.device
        ).unsqueeze(-1)
        scores = scores - parameters.relative_frequency * counts.context / lengths
        return (
            scores
            - parameters.frequency * counts.output
            - parameters.presence * (counts.output > 0)
        )

    def _choose(
        self, scores: Tensor, parameters: BatchParameters, draws: Float32Array
    ) -> tuple[Tensor, Tensor]:
        """Choose one token per row. Returns the tokens int64 [rows], and the scores from which they
        were chosen.
        """
        if not parameters.num_drawn:
            return self._kernels.argmax(scores), scores
        drawn = draws[parameters.drawn_rows]
        if parameters.drawn is None:
            warped = self._warp(scores / parameters.temperature, parameters)
            return self._draw(warped, drawn), warped
        assert parameters.greedy is not None
        warped = self._warp(scores[parameters.drawn] / parameters.temperature, parameters)
        tokens = torch.empty(len(scores), dtype=torch.int64, device=self._device)
        tokens[parameters.greedy] = self._kernels.argmax(scores[parameters.greedy])
        tokens[parameters.drawn] = self._draw(warped, drawn)
        return tokens, scores.index_copy(0, parameters.drawn, warped)

    def _warp(self, scores: Tensor, parameters: BatchParameters) -> Tensor:
        if parameters.top_k is not None:
            scores = parameters.top_k.apply(scores, cut_below_top_k)
        if parameters.top_p is not None:
            sort = self._kernels.sort
            scores = parameters.top_p.apply(
                scores, lambda s, top_p: cut_outside_nucleus(s, top_p, sort)
            )
        if parameters.typical_p is not None:
            scores = parameters.typical_p.apply(scores, cut_atypical)
        if parameters.min_p is not None:
            scores = parameters.min_p.apply(scores, cut_below_min_p)
        return scores

    def _draw(self, scores: Tensor, draws: Float32Array) -> Tensor:
        """Return the first id whose cumulative probability exceeds draw x total.

        Such an id exists because draw < 1, and the probability of this id is positive.
        """
        cumulative = scores.softmax(-1).cumsum(-1)
        threshold = torch.from_numpy(draws).to(self._device).unsqueeze(-1) * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        return tokens.clamp(max=self._vocab_size - 1)  # the index is too high only in a row of NaN

    @staticmethod
    def _problems(logits: Tensor, scores: Tensor, best: Tensor | None) -> dict[int, str]:
        """Find the rows without a token, and the reasons.

        `best` contains the id of each row's best score, or is None if it is not known.
        """
        # In a row with NaN, NaN is the best score.
        known = (
            None
            if best is None or scores is not logits
            else logits.gather(-1, best.unsqueeze(-1)).squeeze(-1)
        )
        highest = logits.amax(-1) if known is None else known
        is_finite = highest.isfinite()
        problems = (
            {}
            if is_finite.all()
            else dict.fromkeys((~is_finite).nonzero().flatten().tolist(), NOT_FINITE)
        )
        if scores is not logits:
            for row in scores.amax(-1).isneginf().nonzero().flatten().tolist():
                problems.setdefault(row, NOTHING_ALLOWED)
        return problems

    def _report(
        self, logits: Tensor, final: Tensor, tokens: Tensor, problems: dict[int, str]
    ) -> SampledTokens:
        parameters, num_rows = self._parameters, len(self._sequences)
        logprobs = np.full(num_rows, np.nan, np.float32)
        tops = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]]()
        for rows, source in ((parameters.raw, logits), (parameters.processed, final)):
            if not rows:
                continue
            index = None if len(rows) == num_rows else torch.tensor(rows, device=self._device)
            distribution = (source if index is None else source[index]).log_softmax(-1)
            chosen = tokens if index is None else tokens[index]
            logprobs[rows] = distribution.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).cpu().numpy()
            top_n = parameters.top_n[rows]
            if top_n.any():
                which, ids, values = _top_tokens(distribution, top_n)
                tops.append((np.array(rows)[which], ids, values))
        row_of, ids, values = (
            (np.concatenate(parts) for parts in zip(*tops, strict=True)) if tops else _NO_TOPS
        )
        order = np.lexsort((ids, -values, row_of))
        return SampledTokens(
            tokens=tokens.to(torch.int32).cpu().numpy(),
            logprobs=logprobs,
            top_counts=np.bincount(row_of, minlength=num_rows).astype(np.int32),
            top_ids=ids[order].astype(np.int32),
            top_logprobs=values[order],
            problems=problems,
        )


_NO_TOPS = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def _top_tokens(
    distribution: Tensor, top_n: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]:
    """Find the `top_n` best tokens per row, and all tokens with the same score as the last of these
    tokens.

    Excluded tokens are omitted. Returns rows, ids and log probabilities, in any order.
    """
    asking = np.flatnonzero(top_n)
    wanted = torch.from_numpy(np.minimum(top_n[asking], distribution.shape[-1])).to(
        distribution.device
    )
    distribution = distribution[torch.from_numpy(asking).to(distribution.device)]
    last = distribution.topk(int(wanted.max()), dim=-1).values.gather(-1, wanted.unsqueeze(-1) - 1)
    rows, ids = ((distribution >= last) & (distribution > float("-inf"))).nonzero(as_tuple=True)
    values: Float32Array = distribution[rows, ids].cpu().numpy()
    return asking[rows.cpu().numpy()], ids.cpu().numpy(), values
