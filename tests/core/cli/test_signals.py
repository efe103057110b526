"""A signal stops a running server with exit code 0. A signal that the caller ignores does not."""

import os
import signal
import subprocess
import sys

import pytest

from tests.live_server import free_port, wait_ready


def started(tmp_path, model, *wrapper):
    """Start a server and return its process and its log. `wrapper` is a program that runs it."""
    port, log = free_port(), tmp_path / "server.log"
    command = [*wrapper, sys.executable, "-m", "tgi", "serve", str(model), "--backend", "null"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--hostname", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    wait_ready(f"http://127.0.0.1:{port}", process, log)
    return process, log


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the server", "all its processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_exits_with_zero(tmp_path, tiny_model, number, send):
    process, log = started(tmp_path, tiny_model)
    send(process.pid, number)
    assert process.wait(30) == 0
    text = log.read_text()
    assert "Shutting down" in text
    assert "Traceback" not in text
    assert "is restarted" not in text


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the server", "all its processes"])
def test_a_server_under_nohup_ignores_the_end_of_its_terminal(tmp_path, tiny_model, send):
    process, log = started(tmp_path, tiny_model, "nohup")
    send(process.pid, signal.SIGHUP)
    # The second signal is delivered after the first.
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "Shutting down after SIGTERM" in log.read_text()
