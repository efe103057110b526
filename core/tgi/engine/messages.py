"""What front and engine say to each other: msgpack frames over a Unix socket, each with a four-byte little-endian length.

The front owns the truth of every request; the engine can be restarted and told everything again.
"""

from __future__ import annotations

import msgspec

from tgi.backend import Agreement, EngineConfig, SamplingParams, Wish
from tgi.types import FinishReason

__all__ = [
    "AbortSequence",
    "AddSequence",
    "CheckHealth",
    "EngineMessage",
    "EngineStats",
    "FrontMessage",
    "HealthReport",
    "Progress",
    "Ready",
    "SchedulerConfig",
    "SequenceOutput",
    "Shutdown",
    "Start",
    "StartFailed",
    "StepReport",
    "TokenOutput",
]


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Base of the messages; the tag is the class name."""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """Base of the parts of messages."""


class SchedulerConfig(Entry):
    """Scheduler options that no backend needs to know (TGI's flags of the same names)."""

    waiting_served_ratio: float = 0.3
    max_waiting_tokens: int = 20
    prefix_cache: bool = True


class Start(Message):
    """First frame from the front: load this model with this backend."""

    engine: EngineConfig
    wish: Wish
    scheduler: SchedulerConfig


class AddSequence(Message):
    """Queue a sequence. With `output_token_ids` it resumes where an earlier engine stopped."""

    sequence_id: int  # unique over the front's life
    request_id: str  # for logs
    prompt_token_ids: list[int]
    sampling: SamplingParams
    seed: int
    max_new_tokens: int  # output tokens in all, those of `output_token_ids` included
    eos_token_ids: tuple[int, ...] = ()  # empty = EOS does not end it
    output_token_ids: list[int] = []
    adapter: int = 0


class AbortSequence(Message):
    """Forget a sequence: its client left, a stop string matched, or it timed out."""

    sequence_id: int


class CheckHealth(Message):
    """Ask for a `HealthReport`."""

    check_id: int
    deep: bool


class Shutdown(Message):
    """End the engine process."""


FrontMessage = Start | AddSequence | AbortSequence | CheckHealth | Shutdown


class Progress(Message):
    """A start phase advanced; `total` 0 means unknown. A line for the operator has phase `log`."""

    phase: str
    done: int = 0
    total: int = 0
    text: str = ""


class Ready(Message):
    """The engine serves."""

    agreement: Agreement


class StartFailed(Message):
    """The engine cannot serve; the process ends after this frame."""

    cause: str
    remedy: str


class TokenOutput(Entry):
    """One chosen token. `logprob` is None where none was asked for or the device cannot give one."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class SequenceOutput(Entry):
    """News of one sequence. After `finish_reason` or `error` nothing follows."""

    sequence_id: int
    tokens: list[TokenOutput] = []
    finish_reason: FinishReason | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    queue_ns: int = 0  # from arrival in the engine to the first step; set once it ran
    prompt_logprobs: list[float | None] = []  # of the next prompt positions, first position None


class EngineStats(Entry):
    """Counters of one step and gauges after it."""

    num_waiting: int
    num_running: int
    num_used_tokens: int  # cache tokens held by running sequences
    num_free_blocks: int
    num_cached_blocks: int
    method: str  # prefill or decode; empty if no step ran
    num_prefill_rows: int
    num_decode_rows: int
    num_tokens: int
    num_new_sequences: int
    num_preempted: int
    step_ns: int
    forward_ns: int
    schedule_ns: int


class StepReport(Message):
    """Everything one step brought."""

    outputs: list[SequenceOutput]
    stats: EngineStats


class HealthReport(Message):
    """Answer to `CheckHealth`."""

    check_id: int
    ok: bool
    message: str = ""


EngineMessage = Progress | Ready | StartFailed | StepReport | HealthReport
