"""What goes into the scheduler and what comes out of it, apart from the seam's own records. Plain
data.
"""

from __future__ import annotations

import msgspec

from tgi.backend import SamplingParams
from tgi.types import FinishReason

__all__ = [
    "NewSequenceRequest",
    "SchedulerConfig",
    "SchedulerStats",
    "SequenceOutput",
    "TokenOutput",
]


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """Base: positional, append-only, cheap to send to the front."""


class SchedulerConfig(Entry, frozen=True):
    """Scheduler options that no backend needs to know (TGI's flags of the same names)."""

    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20
    prefix_cache: bool = True


class NewSequenceRequest(Entry, frozen=True):
    """A sequence to run. With `output_token_ids` it resumes where an earlier engine stopped."""

    sequence_id: int
    request_id: str  # for logs
    prompt_token_ids: list[int]
    sampling: SamplingParams
    seed: int  # 64 bits; negative values are taken modulo 2 to the 64
    max_new_tokens: int  # output tokens in all, those of `output_token_ids` included
    eos_token_ids: tuple[int, ...] = ()  # empty = EOS does not end it
    output_token_ids: list[int] = []
    adapter: int = 0
    encoder_token_ids: list[
        int
    ] = []  # of an encoder-decoder model; the prompt is then what the decoder starts with


class TokenOutput(Entry, frozen=True):
    """One chosen token. `logprob` is None where none was asked for or the device cannot give
    one.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class SequenceOutput(Entry, frozen=True):
    """News of one sequence. After `finish_reason` or `error` nothing follows."""

    sequence_id: int
    tokens: list[TokenOutput] = []
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    queue_ns: int = 0  # from arrival in the engine to the first step; set once it ran
    prompt_logprobs: list[float | None] = []  # of the next prompt positions; position 0 is None


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
