"""The limits of the machine: memory bandwidth, compute throughput, and the resulting speeds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

_BYTES = 512 << 20  # Larger than the processor caches.
_ROUNDS = 7
_GEMM = (2048, 2048, 2048)


@dataclass(frozen=True)
class Roofline:
    """The best of several measurements. A rate that could not be measured is 0."""

    read_bytes_per_second: float
    flops_per_second: float

    def decode_limit(self, num_parameters: int) -> float:
        """Return the maximum tokens per second of one user. Every weight of two bytes is read once
        per token.
        """
        return self.read_bytes_per_second / (2 * num_parameters)

    def prefill_limit_ms(self, num_parameters: int, num_tokens: int) -> float:
        """Return the minimum time to first token of a prompt in milliseconds, with one multiply-add
        per weight and token. Attention is not counted. Returns 0 if compute throughput is unknown.
        """
        if not self.flops_per_second:
            return 0.0
        return 1e3 * 2 * num_parameters * num_tokens / self.flops_per_second


def measure(threads: int) -> Roofline:
    """Measure with `threads` threads. This takes some seconds."""
    return Roofline(_read_rate(threads), _product_rate(threads))


def _read_rate(threads: int) -> float:
    parts = np.array_split(np.ones(_BYTES // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:
        best = min(_seconds(lambda: list(pool.map(np.max, parts))) for _ in range(_ROUNDS))
    return _BYTES / best


def _product_rate(threads: int) -> float:
    try:
        import torch  # noqa: PLC0415 - servers can be compared without torch
    except ImportError:
        return 0.0
    torch.set_num_threads(threads)
    rows, inner, columns = _GEMM
    with torch.inference_mode():
        left, right = (
            torch.ones(rows, inner, dtype=torch.bfloat16),
            torch.ones(columns, inner, dtype=torch.bfloat16),
        )
        best = min(
            _seconds(lambda: torch.nn.functional.linear(left, right)) for _ in range(_ROUNDS)
        )
    return 2.0 * rows * inner * columns / best


def _seconds(work: object) -> float:
    assert callable(work)
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
