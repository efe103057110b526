"""Plain data of the scheduler: the request for a sequence, the output of a sequence, and the
scheduler's options and counters.
"""

from __future__ import annotations

import msgspec

from tgi.backend import SamplingParams
from tgi.types import FinishReason, Guidance

__all__ = [
    "Request",
    "SchedulerConfig",
    "SchedulerStats",
    "SequenceOutput",
]


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """Base class of the records. Fields are positional and append-only, so that messages to the
    front end are small.
    """


class SchedulerConfig(Entry, frozen=True):
    """Scheduler options that backends do not receive. The names are those of TGI's options."""

    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20
    prefix_cache: bool = True


class Request(Entry, frozen=True):
    """A validated request for one sequence of tokens. The request contains all data that are needed
    to generate the sequence, so that the sequence can be continued after an engine restart.

    The front end creates the request during admission and sends it to the engine. The scheduler
    keeps the request until the sequence ends.
    """

    request_id: str  # for logs
    prompt_token_ids: list[int]
    sampling: SamplingParams
    seed: int  # 64 bits; a negative value is taken modulo 2 to the power of 64
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] = ()  # empty = the sequence does not end on EOS
    adapter: int = 0
    # Tokens that the encoder of an encoder-decoder model reads. The prompt is then the start of the
    # decoder's tokens.
    encoder_token_ids: list[int] = []
    cache_salt: str = ""  # sequences with different salts share no blocks of the prefix cache
    guidance: Guidance | None = None  # None = any output


class SequenceOutput(Entry, frozen=True):
    """New output of one sequence. The output with a `finish_reason` or an `error` is the last one
    of the sequence.

    `logprobs` and `top` have one entry per token. A list may be empty if no token has a value.
    """

    sequence_id: int
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    # Nanoseconds from the arrival in the engine to the first step, or 0 before the first step.
    queue_ns: int = 0
    # Logprobs of the next prompt positions. The entry for position 0 is None.
    prompt_logprobs: list[float | None] = []
    logprobs: list[float | None] = []  # None if the device cannot compute it
    top: list[tuple[tuple[int, float], ...]] = []  # (id, logprob), in descending order of logprob
    # The top tokens of each position in `prompt_logprobs`, or empty if no position has top tokens.
    prompt_top: list[tuple[tuple[int, float], ...]] = []


class SchedulerStats(Entry, frozen=True):
    """Gauges after a step, and the counters of the step."""

    num_waiting: int = 0
    num_running: int = 0
    num_used_tokens: int = 0  # cache tokens in the blocks or slots of running sequences
    num_free_blocks: int = 0  # blocks (or slots) without references, including cached blocks
    num_cached_blocks: int = 0  # free blocks whose content is in the prefix cache
    method: str = ""  # "prefill" if the step had a prefill row, else "decode"; empty if no step ran
    num_prefill_rows: int = 0
    num_decode_rows: int = 0
    num_tokens: int = 0
    num_new_sequences: int = 0  # sequences that ran for the first time
    num_preempted: int = 0
    has_joined: bool = False  # new sequences joined running ones
    # The reason for the admission of the new sequences: "chunking", "backpressure" or
    # "wait_exceeded".
    join_reason: str = "chunking"
