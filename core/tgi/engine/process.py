"""The front end's handle of one engine process, and the rules by which the front end recognizes a
process that hangs. All methods are called in the front end's event loop.

A process is active while it sends messages or uses processor time. The front end reads the
processor time from the operating system, so a process is also known to be active while a library
holds the interpreter lock for minutes. An idle process replies to the front end's health checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import statistics
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import final

import msgspec
import psutil  # type: ignore[import-untyped]

from tgi.backend import Agreement
from tgi.engine.launch import ENGINE_COMMAND, describe_end, launch
from tgi.engine.link import encode_frame, engine_message_reader
from tgi.engine.messages import (
    WATCHDOG_CHECK,
    CheckHealth,
    EngineMessage,
    EngineStats,
    FrontendMessage,
    HealthReport,
    Progress,
    Ready,
    Shutdown,
    Start,
    StartFailed,
)
from tgi.errors import BackendError

__all__ = ["DEFAULT_LIMITS", "EngineProcess", "Liveness", "LivenessLimits"]

_READ_BYTES = 1 << 18
_CLOSE_TIMEOUT = 10.0
_LONG_PAUSE_TICKS = 5  # a longer time between two ticks means that the front end was suspended
_NUM_STEPS = 32
_NANOSECONDS = 1e-9
# The minimum processor time of a running process, as a share of the elapsed time and in seconds.
# Background threads of a process that hangs may use less than this.
_MIN_SHARE = 0.01
_MIN_PROCESSOR_SECONDS = 0.02


@final
@dataclass(frozen=True)
class LivenessLimits:
    """Time limits in seconds. An engine that is not active is unhealthy after
    `unhealthy_seconds` and hangs after `freeze_seconds` (after `start_seconds` during startup).
    """

    freeze_seconds: float = 30.0
    # The limit is at least this many times the measured duration of a step.
    step_factor: float = 20.0
    start_seconds: float = 120.0
    # Maximum time without a message for a process that uses processor time.
    silence_seconds: float = 600.0
    unhealthy_seconds: float = 7.0
    check_seconds: float = 10.0  # time between two health checks of a busy engine

    @property
    def tick_seconds(self) -> float:
        """Time between two applications of the rules."""
        return min(1.0, self.freeze_seconds / 8)

    @property
    def idle_seconds(self) -> float:
        """Time without a message after which the front end requests a health check."""
        return 2 * self.tick_seconds

    @property
    def silent_seconds(self) -> float:
        """Time without a message after which the processor time is read. An idle engine replies to
        a health check earlier.
        """
        return 4 * self.tick_seconds


DEFAULT_LIMITS = LivenessLimits()
"""The time limits of a server."""


@final
class Liveness:
    """Records when one engine process was active. `now` is the time of the front end's clock in
    seconds.
    """

    def __init__(self, limits: LivenessLimits, now: float) -> None:
        self.limits = limits
        self.last_heard = now  # time of the last message
        self._is_ready = False
        self._last_used = now  # last time at which the process had used processor time
        self._reading = (now, 0.0)  # a time, and the processor time that was used before it
        self._steps: deque[float] = deque(maxlen=_NUM_STEPS)
        self._check_sent: float | None = None  # None if no check is pending
        self._last_check = now
        self._failing_since: float | None = None

    def note_ready(self, now: float) -> None:
        """Record the end of the startup."""
        self._is_ready = True
        self.last_heard = now

    def note_step(self, step_ns: int) -> None:
        """Record the duration of a step. The steps may be a sample of all steps."""
        self._steps.append(step_ns * _NANOSECONDS)

    def note_processor(self, now: float, seconds: float) -> None:
        """Record the processor time that the process has used since its start."""
        read_at, before = self._reading
        if read_at <= self.last_heard:  # this is the first reading after the last message
            self._reading = (now, seconds)
        elif seconds - before >= max(_MIN_PROCESSOR_SECONDS, _MIN_SHARE * (now - read_at)):
            self._last_used, self._reading = now, (now, seconds)

    def note_check_sent(self, now: float) -> None:
        """Record that a health check was requested."""
        self._check_sent = self._last_check = now

    def note_check(self, now: float, is_ok: bool) -> None:
        """Record the reply to a health check."""
        self._check_sent = None
        if is_ok:
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = now

    def needs_check(self, now: float) -> bool:
        """Whether a health check is due. The first check of an idle engine follows soon after its
        last message.
        """
        if not self._is_ready or self._check_sent is not None:
            return False
        limits = self.limits
        is_idle = now - self.last_heard >= limits.idle_seconds
        return is_idle or now - self._last_check >= limits.check_seconds

    @property
    def is_check_deep(self) -> bool:
        """Whether the next check must run a forward pass, because the last check failed."""
        return self._failing_since is not None

    @property
    def freeze_limit(self) -> float:
        """Maximum time for which the process may be inactive."""
        limits = self.limits
        if not self._is_ready:
            return limits.start_seconds
        step = statistics.median(self._steps) if self._steps else 0.0
        return max(limits.freeze_seconds, limits.step_factor * step)

    def is_healthy(self, now: float) -> bool:
        """Whether the process was active recently, and its last health check succeeded."""
        return self._failing_since is None and self._still(now) <= self.limits.unhealthy_seconds

    def failure(self, now: float) -> str:
        """Return the reason for which the process must be replaced. The text is empty if the
        process does not hang.
        """
        margin = self.limits.tick_seconds  # the rules are applied once per tick
        silence, still, limit = now - self.last_heard, self._still(now), self.freeze_limit
        if still > limit - margin:
            return f"has sent nothing for {silence:.0f} s and used no processor time"
        if silence > max(self.limits.silence_seconds, limit) - margin and self._owes_message:
            return f"has sent nothing for {silence:.0f} s"
        if self._failing_since is not None and now - self._failing_since > limit - margin:
            return f"has failed its health checks for {now - self._failing_since:.0f} s"
        return ""

    @property
    def _owes_message(self) -> bool:
        """Whether the process must send a message: progress, or the reply to a check."""
        return not self._is_ready or self._check_sent is not None

    def _still(self, now: float) -> float:
        """Return the time since the process was last known to be active."""
        return now - max(self.last_heard, self._last_used)


@final
class EngineProcess:
    """A running engine process. `start` creates the process and `close` ends it. The process also
    ends if it crashes.
    """

    def __init__(
        self, process: Process, reader: StreamReader, writer: StreamWriter, limits: LivenessLimits
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._frames = engine_message_reader()
        self._liveness = Liveness(limits, _now())
        self._kill_reason = ""
        self._was_stopped = False  # a signal had stopped the process when it was killed
        self.last_stats: EngineStats | None = None
        """The statistics of the last step, until they are recorded."""
        self.memory_share = 0.0
        """The share of the machine's memory that was in use one second ago."""
        self._watch = asyncio.create_task(self._apply_rules(), name="engine watchdog")

    @classmethod
    async def start(
        cls,
        start: Start,
        on_progress: Callable[[Progress], None],
        command: Sequence[str] = ENGINE_COMMAND,
        limits: LivenessLimits = DEFAULT_LIMITS,
    ) -> tuple[EngineProcess, Agreement]:
        """Start a process, load the model, and return when the engine is ready. Raises
        `BackendError` with the reason if the engine does not become ready.
        """
        process, reader, writer = await launch(command)
        engine = cls(process, reader, writer, limits)
        try:
            engine.send(start)
            agreement = await engine._wait_ready(start.engine.backend, on_progress)
        except BaseException:
            await engine.kill()
            raise
        engine._liveness.note_ready(_now())
        return engine, agreement

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_healthy(self) -> bool:
        """Whether the process was active recently, and its last health check succeeded."""
        return self._liveness.is_healthy(_now())

    @property
    def was_killed_from_outside(self) -> bool:
        """Whether another process killed or stopped this process. Its sequences are then not the
        cause.
        """
        is_killed = self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM)
        return self._was_stopped or (is_killed and not self._kill_reason)

    def note_check(self, report: HealthReport) -> None:
        """Record the reply to a health check of the watchdog."""
        self._liveness.note_check(_now(), report.ok)

    def send(self, message: FrontendMessage) -> None:
        """Send a message without waiting. If the engine crashes before it reads the message, the
        message is lost. The client resends all unfinished sequences after a restart.
        """
        if not self._writer.is_closing():
            self._writer.write(encode_frame(message))

    async def run(self, on_message: Callable[[EngineMessage], None]) -> None:
        """Call `on_message` with every message until the process closes the connection."""
        async for message in self.messages():
            on_message(message)

    async def messages(self) -> AsyncIterator[EngineMessage]:
        """Yield messages until the process closes the connection. A process that sends a malformed
        message is killed.
        """
        try:
            while data := await self._reader.read(_READ_BYTES):
                self._liveness.last_heard = _now()
                for message in self._frames.feed(data):
                    yield message
        except ConnectionError:
            return
        except (msgspec.MsgspecError, ValueError):
            await self.kill("the engine process sent a malformed message, so it was killed")

    async def wait_end(self) -> str:
        """Wait until the process has ended, and return a description of its exit status. If the
        process closed its socket but does not end, it is killed after a timeout.
        """
        try:
            await asyncio.wait_for(self._process.wait(), _CLOSE_TIMEOUT)
        except TimeoutError:
            await self.kill("the engine process closed its connection and did not end")
        self._watch.cancel()
        self._writer.close()
        return self._kill_reason or describe_end(self._process.returncode)[0]

    async def close(self, *, at_once: bool = False) -> None:
        """Send `Shutdown` to the process. If the process does not end within a timeout, it is
        killed. With `at_once` it is killed immediately.
        """
        if at_once:
            await self.kill()
        self.send(Shutdown())
        await self.wait_end()

    async def _wait_ready(self, backend: str, on_progress: Callable[[Progress], None]) -> Agreement:
        phase = "start"
        async for message in self.messages():
            match message:
                case Progress():
                    phase = phase if message.phase == "log" else message.phase
                    on_progress(message)
                case Ready():
                    return message.agreement
                case StartFailed():
                    raise BackendError(message.cause, message.remedy)
                case _:
                    text = f"The engine process sent {type(message).__name__} during the startup."
                    raise BackendError(text, "The backend or the installation is broken.")
        end = await self.wait_end()
        remedy = "" if self._kill_reason else describe_end(self._process.returncode)[1]
        raise BackendError(
            f"The engine process of backend `{backend}` ended in phase `{phase}`: {end}.", remedy
        )

    async def kill(self, reason: str = "") -> None:
        """Kill the process and wait until it has ended. Further calls have no effect. `reason` is
        set if the process itself is the cause.
        """
        self._watch.cancel()
        self._kill_reason = self._kill_reason or reason
        await self._kill()

    async def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._writer.close()

    async def _apply_rules(self) -> None:
        """Request health checks, and kill the process if it hangs."""
        liveness, tick = self._liveness, self._liveness.limits.tick_seconds
        before = _now()
        while True:
            await asyncio.sleep(tick)
            now = _now()
            if now - before > _LONG_PAUSE_TICKS * tick:
                liveness.last_heard = now  # messages may have arrived and wait to be read
            before = now
            self.memory_share = psutil.virtual_memory().percent / 100
            if self.last_stats is not None:
                liveness.note_step(self.last_stats.step_ns)
                self.last_stats = None
            if now - liveness.last_heard > liveness.limits.silent_seconds:
                liveness.note_processor(now, self._processor_seconds())
            failure = liveness.failure(now)
            if failure:
                self._kill_reason = f"the engine process {failure}, so it was killed"
                self._was_stopped = self._is_stopped()
                await self._kill()
                return
            if liveness.needs_check(now):
                liveness.note_check_sent(now)
                self.send(CheckHealth(WATCHDOG_CHECK, liveness.is_check_deep))

    def _processor_seconds(self) -> float:
        """Return the processor time of the process and its child processes."""
        total = 0.0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for one in (process, *process.children(recursive=True)):
                times = one.cpu_times()
                total += times.user + times.system
        return total

    def _is_stopped(self) -> bool:
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False


def _now() -> float:
    return asyncio.get_running_loop().time()
