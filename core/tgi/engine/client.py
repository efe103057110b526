"""The front end's client of the engine. It sends requests, dispatches engine output and resumes the
unfinished sequences after a restart of the engine.

`EngineSupervisor` starts and restarts the engine process. After a restart the client resends every
unfinished sequence with its prompt, the tokens generated so far and its seed. Streams pause during
the restart, and the server is unhealthy. A sequence that crashes the engine is found by
`CrashIsolation`, and only this sequence fails. If the engine crashes repeatedly before it
returns a token, all streams fail and new requests are rejected until a restart succeeds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from typing import final

from tgi.backend import Agreement, Control, ControlResult
from tgi.engine.control import ControlClient
from tgi.engine.crash_isolation import CrashIsolation
from tgi.engine.memory_limit import KillCounter
from tgi.engine.messages import (
    WATCHDOG_CHECK,
    AbortSequence,
    CheckHealth,
    ControlReply,
    EngineMessage,
    EngineStats,
    FrontendMessage,
    HealthReport,
    Progress,
    SetVocabulary,
    Start,
    StepReport,
)
from tgi.engine.process import DEFAULT_LIMITS, EngineProcess, LivenessLimits
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.engine.supervisor import EngineSupervisor, Launch, launch_engine
from tgi.errors import RequestError, UnhealthyError
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.scheduler import Request, SchedulerStats, SequenceOutput

__all__ = ["EngineClient"]

_HEALTH_TIMEOUT = 10.0
_CONTROL_TIMEOUT = 120.0  # seconds; reading an adapter from disk takes less


@final
class EngineClient:
    """The client of one engine, which is restarted after a crash. All methods must be called in the
    same event loop.

    An engine process that hangs according to `limits` is killed. `launch` starts an engine process,
    and `kills` counts the processes that the system killed because memory ran out.
    """

    def __init__(
        self,
        start: Start,
        on_progress: Callable[[Progress], None],
        limits: LivenessLimits = DEFAULT_LIMITS,
        launch: Launch | None = None,
        kills: KillCounter | None = None,
    ) -> None:
        self._on_progress = on_progress
        self._supervisor = EngineSupervisor(
            self, start, on_progress, launch or launch_engine(limits), kills or KillCounter()
        )
        self._streams: dict[int, SequenceStream] = {}
        self._sequence_ids = itertools.count(1)
        self._checks: dict[int, asyncio.Future[HealthReport]] = {}
        self._check_ids = itertools.count(WATCHDOG_CHECK + 1)
        self._control = ControlClient(self._log)
        self._vocabulary: VocabularyData | None = None  # None = it was not set
        self._stats_listeners: list[Callable[[EngineStats], None]] = []
        self._isolation = CrashIsolation()
        self._end: RequestError | None = None  # the error of all requests, because the server ends
        # Whether a sequence has progressed and ended in the current engine process, and the number
        # of tokens that each sequence had when the process became ready.
        self._has_progressed = False
        self._tokens_at_start: dict[int, int] = {}

    async def start(self) -> Agreement:
        """Start the engine process and wait until it is ready. Raises `StartError` with the reason
        if it does not become ready.
        """
        return await self._supervisor.start()

    async def close(self, *, at_once: bool = False) -> None:
        """End the engine process. Unfinished streams are closed without a finish reason. With
        `at_once` the process is killed.
        """
        await self._supervisor.close(at_once=at_once)
        self._control.fail("The engine was closed")
        for stream in list(self._streams.values()):
            stream.cut_off()

    def end_requests(self, error: RequestError) -> None:
        """End all sequences with `error`, and reject new ones, because the server ends."""
        self._end = error
        for stream in list(self._streams.values()):
            stream.cut_off(error)

    @property
    def agreement(self) -> Agreement:
        """The negotiated limits. They are available once the engine has started."""
        if self._supervisor.agreement is None:
            raise AssertionError("the engine was never started")
        return self._supervisor.agreement

    @property
    def is_healthy(self) -> bool:
        """Whether the engine process is ready and was active recently (`Liveness`). The value is
        False during a restart. The value is known without a message to the engine.
        """
        return self._process is not None and self._process.is_healthy

    @property
    def pid(self) -> int | None:
        """Process id of the engine, or None if no engine process is ready."""
        return None if self._process is None else self._process.pid

    @property
    def failure(self) -> str:
        """The reason for which requests are rejected. The text is empty if requests are
        accepted.
        """
        return self._supervisor.failure

    @property
    def num_unfinished(self) -> int:
        """Number of sequences that were submitted and have not ended."""
        return len(self._streams)

    def add_stats_listener(self, listener: Callable[[EngineStats], None]) -> None:
        """Call `listener` with the statistics of every step."""
        self._stats_listeners.append(listener)

    def submit(self, request: Request, outputs: OutputQueue) -> SequenceStream:
        """Queue a sequence whose output goes to `outputs`. During an engine restart the sequence
        waits. Raises `UnhealthyError` if the engine crashes repeatedly or the server ends.
        """
        if self._end is not None:
            raise self._end
        if self.failure:
            raise UnhealthyError(self.failure, self._supervisor.seconds_to_retry)
        stream = SequenceStream(
            next(self._sequence_ids), request, outputs, self._abort, self._pause, self._resume
        )
        self._streams[stream.engine_id] = stream
        if self._isolation.current is None:
            self._send(stream.to_message())
        return stream

    def set_vocabulary(self, data: VocabularyData) -> None:
        """Set the vocabulary of the sequences with guidance. It must be set before the first of
        them is submitted, and is sent again after an engine restart. The method may be called
        several times with the same vocabulary.
        """
        if data is not self._vocabulary and data != self._vocabulary:
            self._vocabulary = data
            self._send(SetVocabulary(data))

    async def check_health(self, deep: bool) -> bool:
        """Ask the engine for its health. If `deep` is set, the worker runs a forward pass. Returns
        False if the engine does not reply in time.
        """
        if self._process is None:
            return False
        check_id = next(self._check_ids)
        future: asyncio.Future[HealthReport] = asyncio.get_running_loop().create_future()
        self._checks[check_id] = future
        try:
            self._send(CheckHealth(check_id, deep))
            return (await asyncio.wait_for(future, _HEALTH_TIMEOUT)).ok
        except (TimeoutError, ConnectionError):
            return False
        finally:
            del self._checks[check_id]

    async def control(self, request: Control, timeout: float = _CONTROL_TIMEOUT) -> ControlResult:
        """Let the worker execute a control request between two steps. The result is not ok if the
        request is rejected, if the engine is not ready, or if no reply arrives within `timeout`
        seconds.

        State that a request established, such as a loaded adapter, is established again after an
        engine restart, before the sequences are resumed.
        """
        if self._process is None:
            return ControlResult(False, self.failure or "The engine is being started")
        return await self._control.request(request, self._send, timeout)

    @property
    def _process(self) -> EngineProcess | None:
        return self._supervisor.process

    def _abort(self, engine_id: int) -> None:
        stream = self._streams.pop(engine_id, None)
        if stream is not None:
            self._has_progressed |= self._has_new_tokens(stream)
            self._send(AbortSequence(engine_id))
            self._end_isolation()
            if self._process is None:
                self._report_idle()

    def _pause(self, stream: SequenceStream) -> bool:
        """Abort a sequence in the engine, and keep its stream. During isolation runs, sequences are
        not paused, because the next run waits for the current one.
        """
        if self._isolation.current is not None:
            return False
        self._send(AbortSequence(stream.engine_id))
        return True

    def _resume(self, stream: SequenceStream) -> None:
        """Continue a paused sequence under a new id. Outputs that the engine sent under the old id
        before it processed the abort are dropped, and the engine generates them again.
        """
        del self._streams[stream.engine_id]
        stream.engine_id = next(self._sequence_ids)
        self._streams[stream.engine_id] = stream
        if self._isolation.current is None:
            self._send(stream.resume_message())

    def _send_again(self, streams: Iterable[SequenceStream]) -> None:
        """Resume sequences in an engine process that does not have them, except for the paused
        ones.
        """
        for stream in streams:
            if not stream.is_paused:
                self._send(stream.resume_message())

    def _send(self, message: FrontendMessage) -> None:
        # Without a process the message is dropped: a restart resends every unfinished sequence.
        if self._process is not None:
            self._process.send(message)

    # The methods that the supervisor calls

    @property
    def has_progressed(self) -> bool:
        """Whether the current engine process has returned tokens."""
        return self._has_progressed or any(map(self._has_new_tokens, self._streams.values()))

    def _has_new_tokens(self, stream: SequenceStream) -> bool:
        return len(stream.output_token_ids) > self._tokens_at_start.get(stream.sequence_id, 0)

    def on_end(self, cause: str, *, is_from_outside: bool) -> None:
        """Record that the engine process has ended, and find the sequence that caused the end."""
        self._fail_checks()
        self._control.fail("The engine process ended before it replied")
        if is_from_outside:
            self._isolation.interrupt()
        else:
            self._note_crash(cause)
        self._report_idle()

    def on_ready(self) -> None:
        """Resume all sequences in the process that is ready now."""
        self._has_progressed = False
        self._tokens_at_start = {
            stream.sequence_id: len(stream.output_token_ids) for stream in self._streams.values()
        }
        if self._vocabulary is not None:
            self._send(SetVocabulary(self._vocabulary))
        for message in self._control.replay():
            self._send(message)
        first = self._isolation.begin(self._streams.values())
        if first is not None:
            first.is_paused = False
        self._send_again(self._streams.values() if first is None else (first,))

    def on_trip(self, reason: str) -> None:
        """End all sequences with an error, because the engine crashes repeatedly."""
        for stream in list(self._streams.values()):
            self._deliver(SequenceOutput(stream.engine_id, error=reason))
        self._report_idle()

    def _note_crash(self, cause: str) -> None:
        offender = self._isolation.note_crash(self._streams.values())
        if offender is None:
            return
        name = offender.request.request_id
        self._log(f"{cause} while it ran only request {name}. This request ends with an error.")
        self._deliver(
            SequenceOutput(offender.engine_id, error=f"{cause} while it ran this request alone")
        )

    def _report_idle(self) -> None:
        """Report that no sequence is running, and that all unfinished sequences wait."""
        for listener in self._stats_listeners:
            listener(EngineStats(SchedulerStats(num_waiting=len(self._streams))))

    def _end_isolation(self) -> None:
        """If the sequence that runs alone has passed the isolation, run the next sequence alone. If
        no sequence is left to isolate, run all sequences.
        """
        passed = self._isolation.current
        if passed is None or not self._isolation.is_passed():
            return
        following = self._isolation.advance()
        if following is not None:
            # The engine sends its messages in order. The remaining output of the passed sequence
            # therefore arrives before the next sequence passes, and the passed sequence can be
            # resumed later without losing tokens.
            self._send(AbortSequence(passed.engine_id))
            following.is_paused = False
            self._send_again([following])
            return
        self._send_again(stream for stream in self._streams.values() if stream is not passed)

    def on_message(self, message: EngineMessage) -> None:
        """Process a message from the engine."""
        match message:
            case StepReport():
                for output in message.outputs:
                    self._deliver(output)
                self._end_isolation()
                for listener in self._stats_listeners:
                    listener(message.stats)
                if self._process is not None:
                    self._process.last_stats = message.stats
            case HealthReport(check_id=number) if number == WATCHDOG_CHECK:
                if self._process is not None:
                    self._process.note_check(message)
            case HealthReport():
                future = self._checks.get(message.check_id)
                if future is not None and not future.done():
                    future.set_result(message)
            case ControlReply():
                self._control.note(message)
            case Progress():
                self._on_progress(message)
            case _:
                raise ValueError(f"{type(message).__name__} is not expected while serving")

    def _deliver(self, output: SequenceOutput) -> None:
        stream = self._streams.get(output.sequence_id)
        if stream is None:
            return
        stream.put(output)
        if stream.is_finished:
            del self._streams[output.sequence_id]
            self._has_progressed |= output.error is None

    def _log(self, text: str) -> None:
        self._on_progress(Progress("log", text=text))

    def _fail_checks(self) -> None:
        for future in self._checks.values():
            if not future.done():
                future.set_exception(ConnectionError("the engine process ended"))
