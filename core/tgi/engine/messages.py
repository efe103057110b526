"""What front and engine say to each other: msgpack frames over a Unix socket, each with a four-byte
little-endian length.

The front owns the truth of every request; the engine can be restarted and told everything again.
"""

from __future__ import annotations

import msgspec

from tgi.backend import Agreement, Control, ControlResult, EngineConfig, RequestedLimits
from tgi.scheduler.records import (
    Request,
    SchedulerConfig,
    SchedulerStats,
    SequenceOutput,
)

__all__ = [
    "AbortSequence",
    "AddSequence",
    "CheckHealth",
    "ControlReply",
    "ControlRequest",
    "EngineMessage",
    "EngineStats",
    "FrontendMessage",
    "HealthReport",
    "Progress",
    "Ready",
    "Shutdown",
    "Start",
    "StartFailed",
    "StepReport",
]


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Base of the messages; the tag is the class name."""


class Start(Message, frozen=True):
    """First frame from the front: load this model with this backend."""

    engine: EngineConfig
    requested: RequestedLimits
    scheduler: SchedulerConfig


class AddSequence(Message, frozen=True):
    """Queue a sequence. It continues after `output_token_ids`, which an earlier engine chose."""

    sequence_id: int
    request: Request
    output_token_ids: list[int] = []


class AbortSequence(Message, frozen=True):
    """Forget a sequence: its client left, a stop string matched, or it timed out."""

    sequence_id: int


class CheckHealth(Message, frozen=True):
    """Ask for a `HealthReport`."""

    check_id: int
    deep: bool


class ControlRequest(Message, frozen=True):
    """Let the worker carry out a control request between two steps; ask for a `ControlReply`."""

    control_id: int
    request: Control


class Shutdown(Message, frozen=True):
    """End the engine process."""


FrontendMessage = Start | AddSequence | AbortSequence | CheckHealth | ControlRequest | Shutdown


class Progress(Message, frozen=True):
    """A start phase advanced; `total` 0 means unknown. A line for the operator has phase `log`."""

    phase: str
    done: int = 0
    total: int = 0
    text: str = ""


class Ready(Message, frozen=True):
    """The engine serves."""

    agreement: Agreement


class StartFailed(Message, frozen=True):
    """The engine cannot serve; the process ends after this frame."""

    cause: str
    remedy: str


class EngineStats(msgspec.Struct, array_like=True, frozen=True):
    """One step of the engine: the scheduler's figures and nanoseconds spent."""

    scheduler: SchedulerStats
    schedule_ns: int = 0
    step_ns: int = 0  # submit to collect
    forward_ns: int = 0  # as the worker reports it
    sample_ns: int = 0  # choosing tokens, as the worker reports it
    update_ns: int = 0  # applying the result
    is_failed: bool = False  # the step failed as a whole


class StepReport(Message, frozen=True):
    """Everything one step brought."""

    outputs: list[SequenceOutput]
    stats: EngineStats


class HealthReport(Message, frozen=True):
    """Answer to `CheckHealth`."""

    check_id: int
    ok: bool
    message: str = ""


class ControlReply(Message, frozen=True):
    """The result of a `ControlRequest`."""

    control_id: int
    result: ControlResult


EngineMessage = Progress | Ready | StartFailed | StepReport | HealthReport | ControlReply
