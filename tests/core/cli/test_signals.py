"""A signal stops a running server with exit code 0."""

import os
import signal
import subprocess
import sys

import pytest

from tests.live_server import free_port, wait_ready


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the server", "all its processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_exits_with_zero(tmp_path, tiny_model, number, send):
    port, log = free_port(), tmp_path / "server.log"
    command = [
        sys.executable,
        "-m",
        "tgi",
        "serve",
        str(tiny_model),
        "--backend",
        "null",
        "--hostname",
        "127.0.0.1",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    wait_ready(f"http://127.0.0.1:{port}", process, log)
    send(process.pid, number)
    assert process.wait(30) == 0
    text = log.read_text()
    assert "Shutting down" in text
    assert "Traceback" not in text
    assert "is restarted" not in text
