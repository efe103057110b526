"""A server as a process group: start to ready, memory, end."""

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
    """Its address, its first process, and how long it took to be ready."""

    url: str
    pid: int
    seconds_to_ready: float

    def peak_memory_mib(self) -> float:
        """Sum of the peaks of all its processes; pages that two share count twice. 0 where the
        system does not say.
        """
        return sum(_peak_kib(process.pid) for process in trees([self.pid])) / 1024


def free_port() -> int:
    """A port nobody uses now."""
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
    """Start it, wait until `ready_path` answers 200, end it with all its children. Raises
    RuntimeError with the log's end.
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
        while not _responses(url + ready_path):
            if process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                tail = log.read_text(errors="replace")[-1500:]
                raise RuntimeError(
                    f"`{' '.join(command)}` was not ready; the end of its log:\n{tail}"
                )
            time.sleep(_POLL_SECONDS)
        yield RunningServer(url, process.pid, time.perf_counter() - began)
    finally:
        _end(process)


def _responses(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then make it."""
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
