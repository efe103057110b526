"""Engine processes that the system cannot start, and processes that end the connection or send
malformed messages.
"""

import asyncio
import os
import resource
import sys
import tempfile

import pytest

from tgi.backend import BackendError
from tgi.engine.client import EngineClient
from tgi.engine.messages import Shutdown
from tgi.engine.process import EngineProcess

from .engine_setup import SubmittedSequence, request, start_message

# A process that connects, becomes ready and then fails.
FAILING = """
import socket, sys, time
from tests.core.server.fake_engine import agreement
from tgi.engine.link import encode_frame
from tgi.engine.messages import Ready
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.recv(1 << 20)
connection.sendall(encode_frame(Ready(agreement())))
connection.recv(1 << 20)
"""


class NoFolder:
    """Removes the folder for temporary files."""

    def __init__(self, tmp_path, monkeypatch):
        self._folder = tmp_path / "temporary"
        self._folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(self._folder))

    def begin(self):
        self._folder.rmdir()

    def end(self):
        self._folder.mkdir(exist_ok=True)


class NoDescriptors:
    """Lets this process open no more files."""

    def __init__(self, tmp_path, monkeypatch):
        del tmp_path, monkeypatch
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def begin(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, self._limits[1]))

    def end(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


@pytest.mark.parametrize("shortage", [NoFolder, NoDescriptors])
async def test_a_restart_that_the_system_refuses_is_tried_again(tmp_path, monkeypatch, shortage):
    start, log = start_message(tmp_path, step_seconds=0.01), []
    client = EngineClient(start, lambda progress: log.append(progress.text))
    fault = shortage(tmp_path, monkeypatch)
    await client.start()
    try:
        stream = SubmittedSequence(client, request([5, 6], 40))
        await anext(stream)
        fault.begin()
        os.kill(client.pid, 9)
        while not any("system cannot start the engine" in line for line in log):
            await asyncio.sleep(0.01)
        fault.end()
        async with asyncio.timeout(30):
            outputs = [output async for output in stream]
        assert [5, *(t for output in outputs for t in output.token_ids)] == [5, 6] * 20
    finally:
        fault.end()
        await client.close()


@pytest.mark.parametrize("shortage", [NoFolder, NoDescriptors])
async def test_a_first_start_that_the_system_refuses_is_a_sentence(tmp_path, monkeypatch, shortage):
    start, fault = start_message(tmp_path), shortage(tmp_path, monkeypatch)
    fault.begin()
    try:
        with pytest.raises(BackendError, match="system cannot start the engine process: "):
            await EngineProcess.start(start, print)
    finally:
        fault.end()


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("connection.sendall(b'abcdefgh' * 9); time.sleep(60)", "sent a malformed message"),
        ("connection.close(); time.sleep(60)", "closed its connection and did not end"),
    ],
)
async def test_a_process_that_breaks_its_connection_is_itself_the_cause(
    tmp_path, monkeypatch, end, cause
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    process, _ = await EngineProcess.start(
        start_message(tmp_path), print, command=(sys.executable, "-c", FAILING + end)
    )
    process.send(Shutdown())
    await process.run(print)
    assert cause in await process.wait_end()
    assert not process.was_killed_from_outside


async def test_an_unexpected_message_during_the_startup_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code = FAILING.replace("Ready(agreement())", "HealthReport(1, True)").replace(
        "import Ready", "import HealthReport"
    )
    with pytest.raises(BackendError, match="sent HealthReport during the startup"):
        await EngineProcess.start(
            start_message(tmp_path), print, command=(sys.executable, "-c", code)
        )
