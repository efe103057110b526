"""Starts an engine process, connects to it, and describes its exit status for an error message."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from tgi.config import process_environment, without_secrets
from tgi.errors import BackendError, ConfigError

__all__ = ["ENGINE_COMMAND", "describe_end", "launch"]

ENGINE_COMMAND = (sys.executable, "-m", "tgi.engine")
"""The command that starts an engine process. The socket path is appended as the last argument."""

_SOCKET_MODE = 0o600
_SOCKET_NAME = "engine.sock"
# maximum length of the path of a Unix socket
_MAX_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_CONNECT_TIMEOUT = 60.0

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


async def launch(command: Sequence[str]) -> tuple[Process, StreamReader, StreamWriter]:
    """Start a process and wait until it has connected. Only this user can open the socket. If the
    caller is cancelled, the process is killed. Raises `BackendError` if the process does not
    connect or the system cannot start it.
    """
    try:
        return await _launch(command)
    except OSError as error:
        raise BackendError(
            f"The system cannot start the engine process: {error.strerror or error}.",
            "Check the number of open files and processes, the memory, and the folder for temporary"
            " files (`TMPDIR`).",
        ) from error


async def _launch(command: Sequence[str]) -> tuple[Process, StreamReader, StreamWriter]:
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
    end, remedy = describe_end(process.returncode)
    return BackendError(f"The engine process ended before it connected: {end}.", remedy)


def describe_end(status: int | None) -> tuple[str, str]:
    """Return a description of the exit status of a process, and a remedy, which may be empty."""
    if status is None or status >= 0:
        return f"the engine process ended with status {status}", ""
    number = signal.Signals(-status)
    return f"the engine process was ended by {number.name}", _REMEDIES.get(number, "")
