"""Servers started with `tgi serve`, for tests that send requests over a socket."""

import contextlib
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_SECONDS = 120.0


@dataclass(frozen=True)
class LiveServer:
    """The URL, the backend and the process id of a running server."""

    url: str
    backend: str
    pid: int

    def count_failures(self, kind: str) -> int:
        """Return the value of the metric `tgi_request_failure` with the label `err="KIND"`."""
        mark = f'tgi_request_failure{{err="{kind}"}} '
        text = httpx.get(f"{self.url}/metrics").text
        return next(
            (int(line.removeprefix(mark)) for line in text.splitlines() if line.startswith(mark)), 0
        )


def free_port() -> int:
    """Return a port that is not in use at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_server(model: Path, backend: str, log: Path, *arguments: str):
    """Start a server for `model`. Yields a `LiveServer` when the server is ready, and terminates
    the server afterwards.
    """
    port = free_port()
    command = [sys.executable, "-m", "tgi", "serve", "--model-id", str(model), "--backend", backend]
    command += ["--hostname", "127.0.0.1", "--port", str(port), *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_ready(url, process, log)
            yield LiveServer(url, backend, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until `GET /health` returns 200. Raises `RuntimeError` with the server's log if the
    server exits or is not ready within `READY_SECONDS`.
    """
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(
                f"the server exited with status {process.returncode}:\n{log.read_text()}"
            )
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {READY_SECONDS:.0f} s:\n{log.read_text()}")
