"""Runs a server in its own process group, and measures its startup time and memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tgi.bench import trees

_START_SECONDS = 900.0
_END_SECONDS = 30.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class RunningServer:
    """The address of a server, its first process, and the seconds until it was ready."""

    url: str
    pid: int
    seconds_to_ready: float

    def peak_memory_mib(self) -> float:
        """Return the sum of the peak resident memory of all processes of the server. Shared pages
        are counted once per process. Returns 0 if the system does not report peaks.
        """
        return sum(_peak_kib(process.pid) for process in trees([self.pid])) / 1024


def free_port() -> int:
    """Return a port that is not in use at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    ready_path: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RunningServer]:
    """Start a server and wait until `ready_path` returns 200. Afterwards, stop the server and its
    children. Raises `RuntimeError` with the end of the log if the server does not become ready.
    """
    began = time.perf_counter()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        while not _is_ready(url + ready_path):
            if process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                tail = log.read_text(errors="replace")[-1500:]
                raise RuntimeError(
                    f"`{' '.join(command)}` was not ready; the end of its log:\n{tail}"
                )
            time.sleep(_POLL_SECONDS)
        yield RunningServer(url, process.pid, time.perf_counter() - began)
    finally:
        _end(process)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the process group, and SIGKILL if processes are left after `_END_SECONDS`."""
    members = trees([process.pid])
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        _, members = psutil.wait_procs(members, _END_SECONDS)
    process.wait()


def _peak_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
