"""Converts the `SamplingParams` of a batch to arrays for the sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tgi.backend import SamplingParams
from tgi_tpu.sampling.sampler import NO_LOGPROBS, PROCESSED_LOGPROBS, RAW_LOGPROBS

__all__ = ["bias_bucket", "needs_history", "sampling_arrays"]

_LOGPROBS = {"none": NO_LOGPROBS, "processed": PROCESSED_LOGPROBS, "raw": RAW_LOGPROBS}
_BIAS_BUCKETS_FROM = 64
_BIAS_FACTOR = 8
_NEUTRAL = SamplingParams()


def needs_history(params: SamplingParams) -> bool:
    """Whether sampling depends on other token ids than the last one."""
    return bool(
        params.repetition_penalty != 1
        or params.relative_frequency_penalty
        or params.frequency_penalty
        or params.presence_penalty
    )


def bias_bucket(params: Sequence[SamplingParams]) -> int:
    """Padded number of logit biases in a batch: 64, or 64 times a power of 8."""
    size, needed = _BIAS_BUCKETS_FROM, sum(len(p.logit_bias) for p in params)
    while size < needed:
        size *= _BIAS_FACTOR
    return size


def sampling_arrays(params: Sequence[SamplingParams], num_rows: int) -> dict[str, npt.NDArray[Any]]:
    """Build the fields of `SamplingArrays`, padded to `num_rows` with neutral rows."""
    rows = [*params, *[_NEUTRAL] * (num_rows - len(params))]
    biases = [(row, token, bias) for row, p in enumerate(params) for token, bias in p.logit_bias]
    biases += [(num_rows, 0, 0.0)] * (bias_bucket(params) - len(biases))
    bias_rows, bias_tokens, bias_values = zip(*biases, strict=True)
    return {
        "greedy": np.array([p.greedy for p in rows]),
        "watermark_last_green": np.array([_last_green(p.watermark_gamma) for p in rows], np.uint32),
        "watermark_delta": np.array(
            [p.watermark_delta if p.watermark_gamma > 0 else 0.0 for p in rows], np.float32
        ),
        "repetition_penalty": np.array([p.repetition_penalty for p in rows], np.float32),
        "relative_frequency_penalty": np.array(
            [p.relative_frequency_penalty for p in rows], np.float32
        ),
        "frequency_penalty": np.array([p.frequency_penalty for p in rows], np.float32),
        "presence_penalty": np.array([p.presence_penalty for p in rows], np.float32),
        "temperature": np.array([p.temperature for p in rows], np.float32),
        "top_k": np.array([p.top_k for p in rows], np.int32),
        "top_p": np.array([p.top_p for p in rows], np.float32),
        "typical_p": np.array([p.typical_p for p in rows], np.float32),
        "min_p": np.array([p.min_p for p in rows], np.float32),
        "logprobs": np.array([_LOGPROBS[p.logprobs] for p in rows], np.int32),
        "top_n_tokens": np.array([p.top_n_tokens for p in rows], np.int32),
        "bias_rows": np.array(bias_rows, np.int32),
        "bias_tokens": np.array(bias_tokens, np.int32),
        "bias_values": np.array(bias_values, np.float32),
    }


def _last_green(gamma: float) -> int:
    """The greatest green hash. Hashes below gamma * 2^32 are green."""
    return min(max(0, math.ceil(gamma * 2.0**32) - 1), 2**32 - 1)
