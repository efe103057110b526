"""Writes the parameters of a batch to the flat buffer of the sampler's inputs, in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi.backend import Float32Array, Int32Array, SamplingParams
from tgi_torch.sampling.device.inputs import FLOAT_FIELDS, InputLayout
from tgi_torch.sampling.sampler_parameters import needs_counts

__all__ = ["ALL_STAGES", "HostInputs", "LogprobsKind", "SamplerStages", "num_biases"]

_LIMITS_OF_TEMPERATURE = 1e-30, 1e30
"""Between these limits, scores divided by the temperature remain finite in float32. Temperatures
outside of these limits have the same probabilities as the limits.
"""

_MAX_GREEN = 2**32 - 1


class LogprobsKind(IntEnum):
    """The scores from which the log probabilities of a row are computed."""

    NONE = 0
    PROCESSED = 1
    RAW = 2


_LOGPROBS = {
    "none": LogprobsKind.NONE,
    "processed": LogprobsKind.PROCESSED,
    "raw": LogprobsKind.RAW,
}


@final
@dataclass(frozen=True)
class SamplerStages:
    """The parts of the sampler that one graph contains. The default contains all parts.

    A part that a row does not need leaves the row unchanged. A graph with more parts than a batch
    needs therefore returns the same result, but runs for a longer time.
    """

    watermark: bool = True
    bias: bool = True
    penalties: bool = True
    masks: bool = True
    draws: bool = True
    top_k: bool = True
    top_p: bool = True
    typical_p: bool = True
    min_p: bool = True
    logprobs: bool = True
    top_tokens: bool = True

    @classmethod
    def needed_by(cls, params: Sequence[SamplingParams], is_masked: bool) -> SamplerStages:
        """Return the parts that a batch needs. `is_masked` is true if the step may have masks."""
        drawn = [p for p in params if not p.greedy]
        return cls(
            watermark=any(p.watermark_gamma > 0 for p in params),
            bias=any(p.logit_bias for p in params),
            penalties=any(needs_counts(p) for p in params),
            masks=is_masked,
            draws=bool(drawn),
            top_k=any(p.top_k > 0 for p in drawn),
            top_p=any(p.top_p < 1 for p in drawn),
            typical_p=any(p.typical_p < 1 for p in drawn),
            min_p=any(p.min_p > 0 for p in drawn),
            logprobs=any(p.logprobs != "none" for p in params),
            top_tokens=any(p.logprobs != "none" and p.top_n_tokens > 0 for p in params),
        )


ALL_STAGES = SamplerStages()


@final
class HostInputs:
    """The flat buffer on the host. Its content is copied to the device before each step.

    `buffer` may be the numpy view of pinned memory, int32 [`layout.num_words`]. The buffer must not
    change while it is copied, so each step in flight needs its own `HostInputs`.
    """

    def __init__(self, layout: InputLayout, buffer: Int32Array | None = None) -> None:
        self._layout = layout
        self.buffer = np.zeros(layout.num_words, np.int32) if buffer is None else buffer
        self._views = dict[str, npt.NDArray[Any]]()
        for span in layout.spans():
            words = self.buffer[span.start : span.stop].reshape(span.shape)
            self._views[span.name] = words.view(np.float32) if span.name in FLOAT_FIELDS else words

    def write_rows(
        self, params: Sequence[SamplingParams], count_slots: Sequence[int], spare_slot: int
    ) -> None:
        """Write the parameters of the rows, and neutral parameters for the padded rows.

        The parameters change only with the batch. Raises `ValueError` if the layout has fewer rows
        or logit biases than the batch.
        """
        num_padded = self._layout.num_rows - len(params)
        if num_padded < 0:
            raise ValueError(
                f"the layout has {self._layout.num_rows} rows, but the batch has {len(params)}; "
                "use a layout with more rows"
            )
        self._write_biases(params)
        rows = [*params, *[SamplingParams()] * num_padded]
        views = self._views
        views["count_slots"][:] = [*count_slots, *[spare_slot] * num_padded]
        views["greedy"][:] = [p.greedy for p in rows]
        views["watermark_last_green"][:] = _last_green(rows)
        views["watermark_delta"][:] = [
            p.watermark_delta if p.watermark_gamma > 0 else 0.0 for p in rows
        ]
        views["repetition_penalty"][:] = [p.repetition_penalty for p in rows]
        views["relative_frequency_penalty"][:] = [p.relative_frequency_penalty for p in rows]
        views["frequency_penalty"][:] = [p.frequency_penalty for p in rows]
        views["presence_penalty"][:] = [p.presence_penalty for p in rows]
        views["temperature"][:] = np.clip([p.temperature for p in rows], *_LIMITS_OF_TEMPERATURE)
        views["top_k"][:] = np.minimum([p.top_k for p in rows], self._layout.vocab_size)
        views["top_p"][:] = [p.top_p for p in rows]
        views["typical_p"][:] = [p.typical_p for p in rows]
        views["min_p"][:] = [p.min_p for p in rows]
        views["logprobs"][:] = [_LOGPROBS[p.logprobs] for p in rows]
        views["top_n_tokens"][:] = np.minimum(
            [p.top_n_tokens for p in rows], self._layout.vocab_size
        )

    def write_step(self, draws: Float32Array, lengths: Int32Array) -> None:
        """Write the draws and the lengths of the rows, and remove the masks of the last step."""
        for name, values in (("draws", draws), ("lengths", lengths)):
            self._views[name][: len(values)] = values
            self._views[name][len(values) :] = 0
        self._views["is_masked"][:] = 0

    def write_masks(self, rows: Int32Array, words: Int32Array) -> slice:
        """Write the masks (int32 [k, W]) of the given rows, which are ascending.

        The caller calls `write_step` first, because it removes the masks of the last step. Returns
        the part of the buffer that late masks copy. The words of rows without a mask are outdated,
        and the sampler does not use them.
        """
        self._views["is_masked"][rows] = 1
        self._views["mask_words"][rows] = words
        num_rows = int(rows[-1]) + 1 if len(rows) else 0
        first = self._layout.span("is_masked").start
        last = self._layout.span("mask_words").start + num_rows * self._layout.mask_width
        return slice(first, last)

    def _write_biases(self, params: Sequence[SamplingParams]) -> None:
        # Each token has one entry, so the sum does not depend on the order in which a device adds.
        merged = dict[tuple[int, int], float]()
        for row, p in enumerate(params):
            for token, bias in p.logit_bias:
                merged[row, token] = merged.get((row, token), 0.0) + bias
        count = len(merged)
        if count > self._layout.num_biases:
            raise ValueError(
                f"the layout has {self._layout.num_biases} logit biases, but the batch has "
                f"{count}; use a layout with more logit biases"
            )
        self._views["bias_rows"][:count] = [row for row, _ in merged]
        self._views["bias_tokens"][:count] = [token for _, token in merged]
        self._views["bias_values"][:count] = list(merged.values())
        for name in ("bias_rows", "bias_tokens", "bias_values"):
            self._views[name][count:] = 0


def num_biases(params: Sequence[SamplingParams]) -> int:
    """Return a number of logit biases that is sufficient for the layout of a batch."""
    return sum(len(p.logit_bias) for p in params)


def _last_green(params: Sequence[SamplingParams]) -> Int32Array:
    """Return the greatest green hash of each row, as the bits of a uint32.

    Hashes below gamma x 2^32 are green.
    """
    greatest = [math.ceil(p.watermark_gamma * 2.0**32) - 1 for p in params]
    return np.clip(greatest, 0, _MAX_GREEN).astype(np.uint32).view(np.int32)
