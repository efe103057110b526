"""Real engine processes that are stopped or killed by a signal. The tests with the limits of a
server take minutes.
"""

import asyncio
import contextlib
import os
import signal
import time

import psutil
import pytest

from tgi.backend import BackendError
from tgi.engine.client import EngineClient
from tgi.engine.process import DEFAULT_LIMITS, LivenessLimits

from .engine_setup import SubmittedSequence, request, start_message

SHORT_LIMITS = LivenessLimits(freeze_seconds=1.0, start_seconds=1.0, unhealthy_seconds=0.5)
IN_USE = [
    pytest.param(SHORT_LIMITS, id="short limits"),
    pytest.param(DEFAULT_LIMITS, id="limits of a server", marks=pytest.mark.long),
]


@contextlib.asynccontextmanager
async def running(start, limits=DEFAULT_LIMITS):
    log = []
    client = EngineClient(start, lambda progress: log.append(progress.text), limits)
    await client.start()
    try:
        yield client, log
    finally:
        await client.close(at_once=True)


async def wait_until(condition, seconds):
    """Return the time in seconds until `condition()` is true."""
    begin = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - begin


@pytest.mark.parametrize("limits", IN_USE)
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_a_stopped_engine_becomes_unhealthy_and_is_replaced(tmp_path, limits, is_busy):
    async with running(start_message(tmp_path, step_seconds=0.01), limits) as (client, log):
        stream = SubmittedSequence(client, request([5, 6], 60)) if is_busy else None
        if stream is not None:
            await anext(stream)
        pid = client.pid
        os.kill(pid, signal.SIGSTOP)
        red = await wait_until(lambda: not client.is_healthy, 60)
        replaced = await wait_until(lambda: client.pid not in (None, pid), 60)
        print(f"unhealthy after {red:.1f} s, replaced after {red + replaced:.1f} s")
        assert red <= limits.unhealthy_seconds + 3 * limits.tick_seconds
        assert red + replaced <= limits.freeze_seconds + 30
        assert any("used no processor time" in line for line in log)
        if stream is not None:
            outputs = [output async for output in stream]
            tokens = [token for output in outputs for token in output.token_ids]
            assert [5, *tokens] == [5, 6] * 30


def engines():
    """Return the engine processes of this test process."""
    children = psutil.Process().children()
    return [child for child in children if "tgi.engine" in child.cmdline()]


class StoppedInPhase:
    """Stops the engine process at its next message of a phase, if `is_armed` is set."""

    def __init__(self, phase, *, is_armed):
        self._phase, self.is_armed, self.has_stopped = phase, is_armed, False

    def __call__(self, progress):
        if progress.phase == self._phase and self.is_armed:
            self.is_armed, self.has_stopped = False, True
            engines()[0].send_signal(signal.SIGSTOP)


async def test_an_engine_that_is_stopped_while_it_starts_ends_the_startup(tmp_path):
    log = StoppedInPhase("load", is_armed=True)
    start = start_message(tmp_path, load_seconds=1.0)
    with pytest.raises(BackendError, match=r"in phase `load`.*sent nothing for"):
        await EngineClient(start, log, SHORT_LIMITS).start()
    assert log.has_stopped
    assert not engines()


async def test_a_successor_that_is_stopped_while_it_starts_is_replaced(tmp_path):
    log = StoppedInPhase("load", is_armed=False)
    start = start_message(tmp_path, step_seconds=0.01, load_seconds=1.0)
    client = EngineClient(start, log, SHORT_LIMITS)
    await client.start()
    try:
        stream = SubmittedSequence(client, request([5, 6], 40))
        await anext(stream)
        log.is_armed = True
        os.kill(client.pid, signal.SIGKILL)
        outputs = [output async for output in stream]
        assert [5, *(t for output in outputs for t in output.token_ids)] == [5, 6] * 20
        assert log.has_stopped
    finally:
        await client.close(at_once=True)


async def test_a_long_startup_phase_with_progress_is_not_ended(tmp_path):
    start = start_message(tmp_path, load_seconds=2.5)
    async with running(start, SHORT_LIMITS) as (client, _):
        assert client.is_healthy


@pytest.mark.parametrize("number", [3, pytest.param(100, marks=pytest.mark.long)])
async def test_streams_survive_repeated_kills_with_the_same_tokens(tmp_path, number):
    async with running(start_message(tmp_path, step_seconds=0.02)) as (client, _):
        length = 20 * number
        streams = [SubmittedSequence(client, request(p, length)) for p in ([5, 6, 7], [8], [9, 1])]
        tokens = [[] for _ in streams]

        async def read(index):
            async for output in streams[index]:
                assert output.error is None
                tokens[index] += output.token_ids

        readers = [asyncio.create_task(read(index)) for index in range(len(streams))]
        for _ in range(number):
            seen = len(tokens[0])
            await wait_until(lambda seen=seen: len(tokens[0]) > seen, 60)
            os.kill(client.pid, signal.SIGKILL)
            await wait_until(lambda: not client.is_healthy, 10)
            await wait_until(lambda: client.is_healthy, 60)
        await asyncio.gather(*readers)
        assert tokens == [(p * length)[:length] for p in ([5, 6, 7], [8], [9, 1])]
