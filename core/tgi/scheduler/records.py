"""The request of a sequence, the output that the engine returns for it, and the scheduler's options
and counters. Plain data.
"""

from __future__ import annotations

import msgspec

from tgi.backend import SamplingParams
from tgi.types import FinishReason

__all__ = [
    "Request",
    "SchedulerConfig",
    "SchedulerStats",
    "SequenceOutput",
]


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """Base: positional, append-only, cheap to send to the front."""


class SchedulerConfig(Entry, frozen=True):
    """Scheduler options that no backend needs to know (TGI's flags of the same names)."""

    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20
    prefix_cache: bool = True


class Request(Entry, frozen=True):
    """A validated request for one sequence of tokens: everything that is needed to generate it, and
    to generate it again after an engine restart.

    Admission builds it, the engine's client sends it whole, and the scheduler keeps it.
    """

    request_id: str  # for logs
    prompt_token_ids: list[int]
    sampling: SamplingParams
    seed: int  # 64 bits; a negative value counts modulo 2 to the 64
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()  # empty = the sequence does not end on EOS
    adapter: int = 0
    # Tokens that the encoder of an encoder-decoder model reads. The prompt is then the start of the
    # decoder's tokens.
    encoder_token_ids: list[int] = []
    cache_salt: str = ""  # sequences with different salts share no blocks of the prefix cache


class SequenceOutput(Entry, frozen=True):
    """New output of one sequence. None follows after a `finish_reason` or an `error`.

    `logprobs` and `top` have one entry per token, or none if no token has one.
    """

    sequence_id: int
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    queue_ns: int = 0  # from the arrival in the engine to the first step; set once it ran
    prompt_logprobs: list[float | None] = []  # of the next prompt positions; position 0 is None
    logprobs: list[float | None] = []  # None where the device cannot give one
    top: list[tuple[tuple[int, float], ...]] = []  # (id, log-probability), the best first


class SchedulerStats(Entry, frozen=True):
    """Gauges after a step and counters of that step."""

    num_waiting: int = 0
    num_running: int = 0
    num_used_tokens: int = 0  # cache tokens held by running sequences (their blocks x block size)
    num_free_blocks: int = 0  # blocks (or slots) nobody holds, cached ones included
    num_cached_blocks: int = 0  # of these, blocks that the prefix cache could still serve
    method: str = ""  # "prefill" if the step had a prefill row, else "decode"; empty if no step ran
    num_prefill_rows: int = 0
    num_decode_rows: int = 0
    num_tokens: int = 0
    num_new_sequences: int = 0  # sequences that ran for the first time
    num_preempted: int = 0
    has_joined: bool = False  # new sequences joined running ones
    join_reason: str = (
        "chunking"  # why they were let in: "chunking", "backpressure" or "wait_exceeded"
    )
