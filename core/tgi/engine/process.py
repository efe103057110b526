"""The front end's handle of one engine process, with the socket between both. All methods are
called in the front end's event loop.
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

from tgi.backend import Agreement
from tgi.config import process_environment, without_secrets
from tgi.engine.link import encode_frame, engine_message_reader
from tgi.engine.messages import (
    EngineMessage,
    FrontendMessage,
    Progress,
    Ready,
    Shutdown,
    Start,
    StartFailed,
)
from tgi.errors import BackendError

__all__ = ["ENGINE_COMMAND", "EngineProcess"]

ENGINE_COMMAND = (sys.executable, "-m", "tgi.engine")
"""The command that starts an engine process. The socket path is appended as the last argument."""

_READ_BYTES = 1 << 18
_SOCKET_MODE = 0o600
_CONNECT_TIMEOUT = 60.0
_CLOSE_TIMEOUT = 10.0

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

    def __init__(self, process: Process, reader: StreamReader, writer: StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._frames = engine_message_reader()

    @classmethod
    async def start(
        cls,
        start: Start,
        on_progress: Callable[[Progress], None],
        command: Sequence[str] = ENGINE_COMMAND,
    ) -> tuple[EngineProcess, Agreement]:
        """Start a process, load the model, and return when the engine is ready. Raises
        `BackendError` with the reason if the engine does not become ready.
        """
        process, reader, writer = await _launch(command)
        engine = cls(process, reader, writer)
        try:
            engine.send(start)
            agreement = await engine._wait_ready(start.engine.backend, on_progress)
        except BaseException:
            await engine.kill()
            raise
        return engine, agreement

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

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
        self._writer.close()
        return _describe_end(self._process.returncode)[0]

    async def close(self) -> None:
        """Send `Shutdown` to the process. If the process does not end within a timeout, it is
        killed.
        """
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
        await self.wait_end()
        end, remedy = _describe_end(self._process.returncode)
        raise BackendError(
            f"The engine process of backend `{backend}` ended in phase `{phase}`: {end}.", remedy
        )

    async def kill(self) -> None:
        """Kill the process and wait until it has ended. This method may be called several times."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._writer.close()


async def _launch(command: Sequence[str]) -> tuple[Process, StreamReader, StreamWriter]:
    """Start a process and wait until it has connected. Only this user can open the socket."""
    loop = asyncio.get_running_loop()
    connected: asyncio.Future[tuple[StreamReader, StreamWriter]] = loop.create_future()

    def accept(reader: StreamReader, writer: StreamWriter) -> None:
        if connected.done():
            writer.close()
        else:
            connected.set_result((reader, writer))

    with tempfile.TemporaryDirectory(prefix="tgi-") as directory:
        path = Path(directory) / "engine.sock"
        server = await asyncio.start_unix_server(accept, path)
        path.chmod(_SOCKET_MODE)
        process = await asyncio.create_subprocess_exec(
            *command,
            str(path),
            stdin=asyncio.subprocess.PIPE,
            env=without_secrets(process_environment()),
        )
        end = asyncio.ensure_future(process.wait())
        end.add_done_callback(lambda _: connected.cancel())
        try:
            reader, writer = await asyncio.wait_for(connected, _CONNECT_TIMEOUT)
        except (TimeoutError, asyncio.CancelledError):
            if not connected.cancelled():
                raise
            raise _not_connected(process) from None
        finally:
            end.cancel()
            server.close()
        return process, reader, writer


def _not_connected(process: Process) -> BackendError:
    if process.returncode is None:
        process.kill()
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
