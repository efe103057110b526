"""The front end's handle of one engine process, with the socket between both. All methods are
called in the front end's event loop.

A task applies the rules of `Liveness` to the process once per second, and kills a process that
hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import final

import msgspec
import psutil  # type: ignore[import-untyped]

from tgi.backend import Agreement
from tgi.config import process_environment, without_secrets
from tgi.engine.link import encode_frame, engine_message_reader
from tgi.engine.liveness import DEFAULT_LIMITS, Liveness, LivenessLimits
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
from tgi.errors import BackendError, ConfigError

__all__ = ["ENGINE_COMMAND", "EngineProcess"]

ENGINE_COMMAND = (sys.executable, "-m", "tgi.engine")
"""The command that starts an engine process. The socket path is appended as the last argument."""

_READ_BYTES = 1 << 18
_SOCKET_MODE = 0o600
_CONNECT_TIMEOUT = 60.0
_CLOSE_TIMEOUT = 10.0
_SOCKET_NAME = "engine.sock"
_MAX_PATH_BYTES = 103 if sys.platform == "darwin" else 107  # of a Unix socket
_LONG_PAUSE_TICKS = 5  # a longer time between two ticks means that the front end was suspended

_REMEDIES = {
    signal.SIGKILL: (
        "Most likely the system ran out of memory: use a smaller model, or lower"
        " `--max-batch-total-tokens`."
    ),
    signal.SIGILL: (
        "A library was built for another processor: reinstall the backend on this machine."
    ),
    signal.SIGBUS: "Shared memory or the disk is full: enlarge /dev/shm or free disk space.",
    signal.SIGSEGV: "A native library crashed: reinstall the backend, then report it with the log.",
}


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
        process, reader, writer = await _launch(command)
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
        """Whether the process has shown a recent sign of life, and its last health check
        succeeded.
        """
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
            await self.kill()

    async def wait_end(self) -> str:
        """Wait until the process has ended, and return a description of its exit status. If the
        process closed its socket but does not end, it is killed after a timeout.
        """
        try:
            await asyncio.wait_for(self._process.wait(), _CLOSE_TIMEOUT)
        except TimeoutError:
            await self.kill()
        self._watch.cancel()
        self._writer.close()
        return self._kill_reason or _describe_end(self._process.returncode)[0]

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
                    raise ValueError(f"{type(message).__name__} is not expected during start")
        end = await self.wait_end()
        remedy = "" if self._kill_reason else _describe_end(self._process.returncode)[1]
        raise BackendError(
            f"The engine process of backend `{backend}` ended in phase `{phase}`: {end}.", remedy
        )

    async def kill(self) -> None:
        """Kill the process and wait until it has ended. Idempotent."""
        self._watch.cancel()
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
            if self.last_stats is not None:
                liveness.note_step(self.last_stats.step_ns)
                self.last_stats = None
            if now - liveness.last_heard > tick:
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


async def _launch(command: Sequence[str]) -> tuple[Process, StreamReader, StreamWriter]:
    """Start a process and wait until it has connected. Only this user can open the socket. If the
    caller is cancelled, the process is killed.
    """
    loop = asyncio.get_running_loop()
    connected: asyncio.Future[tuple[StreamReader, StreamWriter]] = loop.create_future()

    def accept(reader: StreamReader, writer: StreamWriter) -> None:
        if connected.done():
            writer.close()
        else:
            connected.set_result((reader, writer))

    with tempfile.TemporaryDirectory(prefix="tgi-") as directory:
        path = Path(directory) / _SOCKET_NAME
        _check_path(path)
        server = await asyncio.start_unix_server(accept, path)
        path.chmod(_SOCKET_MODE)
        process = await asyncio.create_subprocess_exec(
            *command,
            str(path),
            stdin=asyncio.subprocess.PIPE,
            env=without_secrets(process_environment()),
        )
        end = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait(
                (connected, end), timeout=_CONNECT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
            )
            if not connected.done():
                raise _not_connected(process)
            return process, *connected.result()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        finally:
            end.cancel()
            server.close()


def _check_path(path: Path) -> None:
    num_bytes = len(bytes(path))
    if num_bytes > _MAX_PATH_BYTES:
        raise ConfigError(
            f"The path of the engine's socket, `{path}`, has {num_bytes} bytes, and the system"
            f" allows at most {_MAX_PATH_BYTES}.",
            "Set the variable TMPDIR to a folder with a shorter path.",
        )


def _not_connected(process: Process) -> BackendError:
    if process.returncode is None:
        return BackendError(
            f"The engine process did not connect within {_CONNECT_TIMEOUT:.0f} s.",
            "The machine may be overloaded.",
        )
    end, remedy = _describe_end(process.returncode)
    return BackendError(f"The engine process ended before it connected: {end}.", remedy)


def _describe_end(status: int | None) -> tuple[str, str]:
    """Return a description of the exit status of a process, and a remedy, which may be empty."""
    if status is None or status >= 0:
        return f"the engine process ended with status {status}", ""
    number = signal.Signals(-status)
    return f"the engine process was ended by {number.name}", _REMEDIES.get(number, "")
