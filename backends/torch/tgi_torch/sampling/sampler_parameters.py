"""The sampling parameters of one batch as tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.backend import Int32Array, SamplingParams
from tgi_torch.sampling.protocols import SampledSequence

__all__ = ["BatchParameters", "TokenCounts", "needs_counts"]


@final
@dataclass(frozen=True)
class _Rows:
    """The rows that need one processor, and the parameter of the processor for each row.

    `index` is None if all rows need it.
    """

    index: Tensor | None
    values: Tensor  # [rows, 1]

    def apply(self, scores: Tensor, process: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Process the scores of these rows. May write to `scores`."""
        if self.index is None:
            return process(scores, self.values)
        scores[self.index] = process(scores[self.index], self.values)
        return scores


@final
@dataclass
class TokenCounts:
    """The number of occurrences of each id, for each sequence whose penalties depend on these
    counts.

    The counts are updated with the new tokens of each step.
    """

    rows: list[int]
    context: Tensor  # float32 [len(rows), vocab_size], counts in prompt and output
    output: Tensor  # float32 [len(rows), vocab_size], counts in the output
    num_counted: list[int] = field(default_factory=list)

    def update(self, sequences: Sequence[SampledSequence], lengths: Sequence[int]) -> None:
        """Count the tokens that were added since the last call."""
        rows, ids, is_output = list[int](), list[Int32Array](), list[npt.NDArray[np.bool_]]()
        for i, row in enumerate(self.rows):
            first, last = self.num_counted[i], lengths[row]
            ids.append(sequences[row].tokens[first:last])
            is_output.append(np.arange(first, last) >= sequences[row].num_prompt_tokens)
            rows.extend([i] * (last - first))
            self.num_counted[i] = last
        index = torch.tensor(rows, dtype=torch.int64, device=self.context.device)
        tokens = torch.from_numpy(np.concatenate(ids).astype(np.int64)).to(self.context.device)
        added = torch.from_numpy(np.concatenate(is_output).astype(np.float32)).to(
            self.context.device
        )
        self.context.index_put_((index, tokens), torch.ones_like(added), accumulate=True)
        self.output.index_put_((index, tokens), added, accumulate=True)


@final
class BatchParameters:
    """The sampling parameters of one batch as tensors. A processor that no row needs is None."""

    def __init__(
        self, params: Sequence[SamplingParams], vocab_size: int, device: torch.device
    ) -> None:
        self._params = params
        self._device = device
        drawn = [i for i, p in enumerate(params) if not p.greedy]
        self.greedy = self._index([i for i, p in enumerate(params) if p.greedy])
        self.drawn = self._index(drawn)
        self.num_drawn = len(drawn)
        self.drawn_rows = np.array(drawn, np.int64)
        self.watermark_rows = [i for i, p in enumerate(params) if p.watermark_gamma > 0]
        self.watermark = self._rows(lambda p: p.watermark_gamma > 0, lambda p: p.watermark_delta)
        self.watermark_limit = torch.tensor(
            [[math.ceil(params[i].watermark_gamma * 2.0**32)] for i in self.watermark_rows],
            dtype=torch.int64,
            device=device,
        )
        self.bias = self._bias()
        counted = [i for i, p in enumerate(params) if needs_counts(p)]
        self.counts = self._counts(counted, vocab_size) if counted else None
        self.repetition = self._values(counted, lambda p: p.repetition_penalty)
        self.relative_frequency = self._values(counted, lambda p: p.relative_frequency_penalty)
        self.frequency = self._values(counted, lambda p: p.frequency_penalty)
        self.presence = self._values(counted, lambda p: p.presence_penalty)
        self.temperature = self._values(drawn, lambda p: p.temperature)
        self.top_k = self._rows(
            lambda p: p.top_k > 0, lambda p: p.top_k, among=drawn, dtype=torch.int64
        )
        self.top_p = self._rows(lambda p: p.top_p < 1, lambda p: p.top_p, among=drawn)
        self.typical_p = self._rows(lambda p: p.typical_p < 1, lambda p: p.typical_p, among=drawn)
        self.min_p = self._rows(lambda p: p.min_p > 0, lambda p: p.min_p, among=drawn)
        self.raw = [i for i, p in enumerate(params) if p.logprobs == "raw"]
        self.processed = [i for i, p in enumerate(params) if p.logprobs == "processed"]
        self.top_n = np.array([p.top_n_tokens for p in params], np.int64)

    @property
    def changes_scores(self) -> bool:
        """Whether a processor other than a mask changes the scores of greedy rows."""
        return self.watermark is not None or self.bias is not None or self.counts is not None

    def _index(self, rows: list[int]) -> Tensor | None:
        return (
            None
            if len(rows) == len(self._params)
            else torch.tensor(rows, dtype=torch.int64, device=self._device)
        )

    def _values(
        self,
        rows: list[int],
        value: Callable[[SamplingParams], float],
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return torch.tensor(
            [[value(self._params[i])] for i in rows], dtype=dtype, device=self._device
        )

    def _rows(
        self,
        asks: Callable[[SamplingParams], bool],
        value: Callable[[SamplingParams], float],
        among: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> _Rows | None:
        """Select the rows for which `asks` is true, as indices in `among` (default: all rows)."""
        candidates = list(range(len(self._params))) if among is None else among
        asking = [
            (position, row) for position, row in enumerate(candidates) if asks(self._params[row])
        ]
        if not asking:
            return None
        values = self._values([row for _, row in asking], value, dtype)
        if len(asking) == len(candidates):
            return _Rows(None, values)
        return _Rows(
            torch.tensor(
                [position for position, _ in asking], dtype=torch.int64, device=self._device
            ),
            values,
        )

    def _bias(self) -> tuple[Tensor, Tensor, Tensor] | None:
        entries = [
            (i, token, bias) for i, p in enumerate(self._params) for token, bias in p.logit_bias
        ]
        if not entries:
            return None
        rows, tokens, biases = zip(*entries, strict=True)
        return (
            torch.tensor(rows, device=self._device),
            torch.tensor(tokens, device=self._device),
            torch.tensor(biases, dtype=torch.float32, device=self._device),
        )

    def _counts(self, rows: list[int], vocab_size: int) -> TokenCounts:
        context, output = (
            torch.zeros(len(rows), vocab_size, device=self._device) for _ in range(2)
        )
        return TokenCounts(rows, context, output, [0] * len(rows))


def needs_counts(params: SamplingParams) -> bool:
    """Whether the penalties depend on the number of occurrences of tokens."""
    return bool(
        params.repetition_penalty != 1
        or params.relative_frequency_penalty
        or params.frequency_penalty
        or params.presence_penalty
    )
