"""The messages between front end and engine. `tgi.engine.link` sends them over a Unix socket.

The front end keeps the complete state of every request. It can therefore restart the engine and
resend all unfinished sequences.
"""

from __future__ import annotations

import msgspec

from tgi.backend import Agreement, Control, ControlResult, EngineConfig, RequestedLimits
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.scheduler.records import (
    Request,
    SchedulerConfig,
    SchedulerStats,
    SequenceOutput,
)

__all__ = [
    "WATCHDOG_CHECK",
    "AbortSequence",
    "AddSequence",
    "CheckHealth",
    "ControlReply",
    "ControlRequest",
    "EngineMessage",
    "EngineStats",
    "FrontendMessage",
    "GuidanceStats",
    "HealthReport",
    "Progress",
    "Ready",
    "SetVocabulary",
    "Shutdown",
    "Start",
    "StartFailed",
    "StepReport",
]


WATCHDOG_CHECK = 0
"""The number of the health checks by which the front end recognizes an engine that hangs."""


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Base class of the messages. The tag is the class name."""


class Start(Message, frozen=True):
    """The first message from the front end. The engine loads the model with the backend that
    `engine` specifies.
    """

    engine: EngineConfig
    requested: RequestedLimits
    scheduler: SchedulerConfig


class AddSequence(Message, frozen=True):
    """Queue a sequence. Generation continues after `output_token_ids`, the output tokens that an
    earlier engine process generated.
    """

    sequence_id: int
    request: Request
    output_token_ids: list[int] = []


class SetVocabulary(Message, frozen=True):
    """The model's vocabulary. It is sent once, before the first sequence with guidance. The message
    has 1 to 3 MB.
    """

    data: VocabularyData


class AbortSequence(Message, frozen=True):
    """End a sequence before its last token. The reason is a disconnected client, a matching stop
    string or a timeout.
    """

    sequence_id: int


class CheckHealth(Message, frozen=True):
    """Request a `HealthReport`."""

    check_id: int
    deep: bool


class ControlRequest(Message, frozen=True):
    """Let the worker execute a control request between two steps, and request a `ControlReply`."""

    control_id: int
    request: Control


class Shutdown(Message, frozen=True):
    """End the engine process."""


FrontendMessage = (
    Start | AddSequence | AbortSequence | CheckHealth | ControlRequest | SetVocabulary | Shutdown
)


class Progress(Message, frozen=True):
    """The progress of a startup phase, or a log line for the operator. `total` is 0 if it is
    unknown. For a log line, `phase` is `log` and `text` is the line.
    """

    phase: str
    done: int = 0
    total: int = 0
    text: str = ""


class Ready(Message, frozen=True):
    """The engine is ready to process requests."""

    agreement: Agreement


class StartFailed(Message, frozen=True):
    """The engine failed to start. The process ends after this message."""

    cause: str
    remedy: str


class GuidanceStats(msgspec.Struct, array_like=True, frozen=True):
    """The work for sequences with guidance. Durations are in nanoseconds."""

    mask_ns: int = 0
    num_masks: int = 0
    num_compiled: int = 0  # compiled grammars
    compile_ns: int = 0  # from the requests of these grammars to the ends of their compilations
    num_hits: int = 0  # sequences whose grammar was compiled before
    num_errors: int = 0  # sequences that ended with an error of their grammar

    def since(self, before: GuidanceStats) -> GuidanceStats | None:
        """Return the work since the totals `before`, or None if there was none."""
        if self == before:
            return None
        values = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(before), strict=True)
        return GuidanceStats(*(total - earlier for total, earlier in values))


class EngineStats(msgspec.Struct, array_like=True, frozen=True):
    """Statistics of one engine step: scheduler counters, and durations in nanoseconds."""

    scheduler: SchedulerStats
    schedule_ns: int = 0
    step_ns: int = 0  # from submit to collect
    forward_ns: int = 0  # duration of the forward pass, as reported by the worker
    sample_ns: int = 0  # duration of sampling, as reported by the worker
    update_ns: int = 0  # duration of `Scheduler.update`
    is_failed: bool = False  # the step failed as a whole
    guidance: GuidanceStats | None = None  # the work since the last report; None = no work


class StepReport(Message, frozen=True):
    """The outputs and the statistics of one step."""

    outputs: list[SequenceOutput]
    stats: EngineStats


class HealthReport(Message, frozen=True):
    """The reply to `CheckHealth`."""

    check_id: int
    ok: bool
    message: str = ""


class ControlReply(Message, frozen=True):
    """The result of a `ControlRequest`."""

    control_id: int
    result: ControlResult


EngineMessage = Progress | Ready | StartFailed | StepReport | HealthReport | ControlReply
