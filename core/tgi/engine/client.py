"""The front end's client of the engine. It starts the engine process, sends requests, dispatches
engine output and restarts the engine after a crash.

After a crash the client starts a new engine process and resends every unfinished sequence with its
prompt, the tokens generated so far and its seed. Streams pause during the restart, and the server
is unhealthy. A sequence that crashes the engine is found by `CrashIsolation`, and only this
sequence fails. If the engine crashes more often than a restart limit allows, the client stops
restarting it and all streams fail.

The client kills an engine that has unfinished sequences and sends no message for a long time. An
engine that compiles sends progress reports, so it is not killed.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import final

from tgi.backend import Agreement, Control, ControlResult
from tgi.engine.control import ControlClient
from tgi.engine.crash_isolation import CrashIsolation
from tgi.engine.messages import (
    AbortSequence,
    CheckHealth,
    ControlReply,
    EngineMessage,
    EngineStats,
    FrontendMessage,
    HealthReport,
    Progress,
    Start,
    StepReport,
)
from tgi.engine.process import EngineProcess
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.errors import StartError, UnhealthyError
from tgi.scheduler import Request, SequenceOutput

__all__ = ["EngineClient"]

_HEALTH_TIMEOUT = 10.0
_CONTROL_TIMEOUT = 120.0  # seconds; reading an adapter from disk takes less
_MAX_RESTARTS = 3  # maximum number of restarts within the restart window
_RESTART_WINDOW = 300.0  # seconds
_SILENCE_LIMIT = 600.0
_MAX_WATCH_INTERVAL = 1.0


@final
class EngineClient:
    """The client of one engine, which is restarted after a crash. All methods must be called in the
    same event loop.

    If the engine has unfinished sequences and sends no message for `silence_limit` seconds, the
    client kills it.
    """

    def __init__(
        self,
        start: Start,
        on_progress: Callable[[Progress], None],
        silence_limit: float = _SILENCE_LIMIT,
    ) -> None:
        self._start_message = start
        self._on_progress = on_progress
        self._process: EngineProcess | None = None
        self._agreement: Agreement | None = None
        self._streams: dict[int, SequenceStream] = {}
        self._sequence_ids = itertools.count(1)
        self._checks: dict[int, asyncio.Future[HealthReport]] = {}
        self._check_ids = itertools.count(1)
        self._control = ControlClient(self._log)
        self._stats_listeners: list[Callable[[EngineStats], None]] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._crashes: deque[float] = deque()
        self._isolation = CrashIsolation()
        # Whether the sequence that caused the latest crashes was found. These crashes no longer
        # count towards the restart limit once another sequence ends without an error.
        self._are_crashes_explained = False
        self._silence_limit = silence_limit
        self._last_heard = 0.0
        self._watchdog: asyncio.Task[None] | None = None
        self._failure = ""

    async def start(self) -> Agreement:
        """Start the engine process and wait until it is ready. Raises `StartError` with the reason
        if it does not become ready.
        """
        process, agreement = await EngineProcess.start(self._start_message, self._on_progress)
        self._process, self._agreement = process, agreement
        self._supervisor = asyncio.create_task(self._supervise(process), name="engine supervisor")
        self._watchdog = asyncio.create_task(self._watch(), name="engine watchdog")
        return agreement

    async def close(self) -> None:
        """End the engine process. Unfinished streams are closed without a finish reason."""
        tasks = [task for task in (self._supervisor, self._watchdog) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._process is not None:
            await self._process.close()
            self._process = None
        self._control.fail("The engine was closed")
        for stream in list(self._streams.values()):
            stream.cut_off()

    @property
    def agreement(self) -> Agreement:
        """The agreement with the backend. It is available once the engine has started."""
        if self._agreement is None:
            raise AssertionError("the engine was never started")
        return self._agreement

    @property
    def is_healthy(self) -> bool:
        """Whether the engine process is ready. The value is False during a restart."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Process id of the engine, or None if no engine process is ready."""
        return None if self._process is None else self._process.pid

    @property
    def failure(self) -> str:
        """The reason for which the client no longer restarts the engine. The text is empty if the
        client still restarts the engine after a crash.
        """
        return self._failure

    @property
    def num_unfinished(self) -> int:
        """Number of sequences that were submitted and have not ended."""
        return len(self._streams)

    def add_stats_listener(self, listener: Callable[[EngineStats], None]) -> None:
        """Call `listener` with the statistics of every step."""
        self._stats_listeners.append(listener)

    def submit(self, request: Request, outputs: OutputQueue) -> SequenceStream:
        """Queue a sequence whose output goes to `outputs`. During an engine restart the sequence
        waits. Raises `UnhealthyError` if the engine is no longer restarted.
        """
        if self._failure:
            raise UnhealthyError(self._failure)
        stream = SequenceStream(next(self._sequence_ids), request, outputs, self._abort)
        if not self._streams:
            # An engine without sequences may send no messages, so the silence limit is measured
            # from this time.
            self._last_heard = time.monotonic()
        self._streams[stream.sequence_id] = stream
        if self._isolation.current is None:
            self._send(stream.to_message())
        return stream

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
            return ControlResult(False, self._failure or "The engine is being started")
        return await self._control.request(request, self._send, timeout)

    def _abort(self, sequence_id: int) -> None:
        if self._streams.pop(sequence_id, None) is not None:
            self._send(AbortSequence(sequence_id))
            self._end_isolation()

    def _send(self, message: FrontendMessage) -> None:
        # Without a process the message is dropped: a restart resends every unfinished sequence.
        if self._process is not None:
            self._process.send(message)

    async def _supervise(self, process: EngineProcess) -> None:
        while True:
            async for message in process.messages():
                self._dispatch(message)
            self._process = None
            self._fail_checks()
            self._control.fail("The engine process ended before it replied")
            cause = await process.wait_end()
            restarted = await self._restart(cause)
            if restarted is None:
                return
            process = restarted

    async def _restart(self, cause: str) -> EngineProcess | None:
        self._note_crash(cause)
        if len(self._crashes) > _MAX_RESTARTS:
            self._give_up(f"{cause}, {len(self._crashes)} times within {_RESTART_WINDOW:.0f} s")
            return None
        self._log(f"{cause}. The engine is restarted, and {len(self._streams)} sequences resume.")
        try:
            process, self._agreement = await EngineProcess.start(
                self._start_message, self._on_progress
            )
        except StartError as error:
            self._give_up(f"{cause} and did not start again: {error}")
            return None
        self._process = process
        self._last_heard = time.monotonic()
        for message in self._control.replay():
            process.send(message)
        first = self._isolation.begin(self._streams.values())
        for stream in self._streams.values() if first is None else (first,):
            process.send(stream.resume_message())
        return process

    def _note_crash(self, cause: str) -> None:
        now = time.monotonic()
        self._crashes.append(now)
        while self._crashes and now - self._crashes[0] > _RESTART_WINDOW:
            self._crashes.popleft()
        offender = self._isolation.note_crash(self._streams.values())
        if offender is None:
            return
        name = offender.request.request_id
        self._log(f"{cause} while it ran only request {name}. This request ends with an error.")
        self._deliver(
            SequenceOutput(offender.sequence_id, error=f"{cause} while it ran this request alone")
        )
        self._are_crashes_explained = True

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
            self._send(AbortSequence(passed.sequence_id))
            self._send(following.resume_message())
            return
        for stream in self._streams.values():
            if stream is not passed:
                self._send(stream.resume_message())

    async def _watch(self) -> None:
        """Kill an engine that hangs. The supervisor then restarts it."""
        while True:
            await asyncio.sleep(min(self._silence_limit / 4, _MAX_WATCH_INTERVAL))
            silence = time.monotonic() - self._last_heard
            if self._process is not None and self._streams and silence > self._silence_limit:
                self._log(f"The engine has sent nothing for {silence:.0f} s and is killed.")
                await self._process.kill()

    def _give_up(self, failure: str) -> None:
        self._failure = failure
        self._log(f"{failure}. The engine is not restarted again.")
        for stream in list(self._streams.values()):
            self._deliver(SequenceOutput(stream.sequence_id, error=failure))

    def _dispatch(self, message: EngineMessage) -> None:
        self._last_heard = time.monotonic()
        match message:
            case StepReport():
                for output in message.outputs:
                    self._deliver(output)
                self._end_isolation()
                for listener in self._stats_listeners:
                    listener(message.stats)
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
            if output.error is None and self._are_crashes_explained:
                self._crashes.clear()
                self._are_crashes_explained = False

    def _log(self, text: str) -> None:
        self._on_progress(Progress("log", text=text))

    def _fail_checks(self) -> None:
        for future in self._checks.values():
            if not future.done():
                future.set_exception(ConnectionError("the engine process ended"))
