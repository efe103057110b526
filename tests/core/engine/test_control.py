"""Control requests from the client through the engine to the worker and back."""

import asyncio
import os
import signal

import pytest

from tgi.backend import (
    FEATURES,
    ControlResult,
    EngineConfig,
    LoadAdapter,
    RequestedLimits,
    Sleep,
    UnloadAdapter,
    Wake,
)
from tgi.engine.client import EngineClient
from tgi.engine.control import ControlClient, adapter_digest
from tgi.engine.messages import ControlReply, Start
from tgi.scheduler import SchedulerConfig
from tgi.testing.conformance.models import TinyModels

from .engine_setup import CONTROLS, SubmittedSequence, request, start_message


class Running:
    """A context manager that runs an engine client and collects its log."""

    def __init__(self, start):
        self.progress = []
        self.client = EngineClient(start, self.progress.append)

    async def __aenter__(self):
        await self.client.start()
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    @property
    def log(self):
        return [message.text for message in self.progress if message.phase == "log"]

    async def tokens(self, sequence, kill_after=None):
        """Return the tokens and the error of a sequence. The engine is killed after `kill_after`
        tokens.
        """
        tokens, error = [], None
        async for output in SubmittedSequence(self.client, sequence):
            tokens += output.token_ids
            error = output.error
            if kill_after is not None and len(tokens) >= kill_after:
                os.kill(self.client.pid, signal.SIGKILL)
                kill_after = None
        return tokens, error


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models")).get()


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [str(model.write_adapter(folder / f"{n}", rank=4, seed=n)) for n in (1, 2)]


@pytest.fixture
def complete_start(model):
    config = EngineConfig("complete", str(model.path), model.spec)
    return Start(config, RequestedLimits(features=tuple(sorted(FEATURES))), SchedulerConfig())


PROMPT = list(range(10, 60))


async def test_adapters_are_loaded_used_and_unloaded(complete_start, adapters):
    async with Running(complete_start) as engine:
        plain, _ = await engine.tokens(request(PROMPT, 6))
        results = await asyncio.gather(
            *(engine.client.control(LoadAdapter(n, path)) for n, path in enumerate(adapters, 1))
        )
        assert [result.ok for result in results] == [True, True]
        again = await engine.client.control(LoadAdapter(1, adapters[0]))
        assert not again.ok
        assert "1" in again.message
        first, _ = await engine.tokens(request(PROMPT, 6, adapter=1))
        second, _ = await engine.tokens(request(PROMPT, 6, adapter=2))
        assert len({tuple(plain), tuple(first), tuple(second)}) == 3
        assert (await engine.client.control(UnloadAdapter(1))).ok
        _, error = await engine.tokens(request(PROMPT, 6, adapter=1))
        assert error == "Adapter 1 is not loaded"


async def test_a_number_that_is_used_again_matches_no_old_blocks(complete_start, adapters):
    async with Running(complete_start) as engine:
        for path in adapters:
            assert (await engine.client.control(LoadAdapter(1, path))).ok
            outputs = SubmittedSequence(engine.client, request(PROMPT, 4, adapter=1))
            assert {output.num_cached_tokens async for output in outputs} == {0}
            assert (await engine.client.control(UnloadAdapter(1))).ok
        assert (await engine.client.control(LoadAdapter(2, adapters[0]))).ok
        outputs = SubmittedSequence(engine.client, request(PROMPT, 4, adapter=2))
        cached = {output.num_cached_tokens async for output in outputs}
        assert min(cached) > 0, "the same adapter under another number shares its blocks"


async def test_adapters_are_loaded_again_before_sequences_are_resumed(complete_start, adapters):
    async with Running(complete_start) as engine:
        for number, path in enumerate(adapters, 1):
            assert (await engine.client.control(LoadAdapter(number, path))).ok
        assert (await engine.client.control(UnloadAdapter(1))).ok
        undisturbed, _ = await engine.tokens(request(PROMPT, 24, adapter=2))
        pid = engine.client.pid
        resumed, error = await engine.tokens(request(PROMPT, 24, adapter=2), kill_after=3)
        assert engine.client.pid != pid
        assert (resumed, error) == (undisturbed, None)
        _, error = await engine.tokens(request(PROMPT, 4, adapter=1))
        assert error == "Adapter 1 is not loaded", "it was unloaded before the crash"


async def test_an_adapter_that_cannot_be_loaded_again_fails_its_sequences_only(
    complete_start, model, tmp_path
):
    path = model.write_adapter(tmp_path / "adapter", rank=4, seed=3)
    async with Running(complete_start) as engine:
        assert (await engine.client.control(LoadAdapter(1, str(path)))).ok
        undisturbed, _ = await engine.tokens(request(PROMPT, 24))
        for file in path.iterdir():
            file.unlink()
        (tokens, error), (_, lost) = await asyncio.gather(
            engine.tokens(request(PROMPT, 24), kill_after=3),
            engine.tokens(request(PROMPT, 24, adapter=1)),
        )
        assert (tokens, error) == (undisturbed, None)
        assert lost == "Adapter 1 is not loaded"
        assert any("rejected `adapter_load`" in line for line in engine.log)
        os.kill(engine.client.pid, signal.SIGKILL)
        assert (await engine.tokens(request(PROMPT, 24)))[0] == undisturbed
        assert sum("rejected `adapter_load`" in line for line in engine.log) == 1


async def test_an_engine_that_slept_sleeps_again_after_a_restart(complete_start):
    async with Running(complete_start) as engine:
        assert (await engine.client.control(Sleep())).ok
        pid = engine.client.pid
        os.kill(pid, signal.SIGKILL)
        while engine.client.pid in (pid, None):
            await asyncio.sleep(0.01)
        assert not await engine.client.check_health(deep=False)
        assert (await engine.tokens(request(PROMPT, 2)))[1] == "The engine is asleep"
        assert (await engine.client.control(Wake())).ok
        assert await engine.client.check_health(deep=True)
        assert len((await engine.tokens(request(PROMPT, 2)))[0]) == 2


async def test_a_request_that_was_not_agreed_is_refused(tmp_path):
    async with Running(start_message(tmp_path)) as engine:
        result = await engine.client.control(Sleep())
        assert result == ControlResult(False, "the null backend has no control `sleep`")
        assert (await engine.tokens(request([5, 6], 3)))[0] == [5, 6, 5]


async def test_a_reply_that_does_not_come_in_time(tmp_path):
    start = start_message(tmp_path, controls=CONTROLS, control_seconds=0.5)
    async with Running(start) as engine:
        result = await engine.client.control(Sleep(), timeout=0.05)
        assert not result.ok
        assert "within 0.05 s" in result.message
        assert (await engine.client.control(Wake())).ok, "the engine continues"


async def test_an_engine_that_dies_during_a_request(tmp_path):
    start = start_message(tmp_path, controls=CONTROLS, control_seconds=30.0)
    async with Running(start) as engine:
        waiting = asyncio.create_task(engine.client.control(LoadAdapter(1, "nowhere")))
        await asyncio.sleep(0.3)
        pid = engine.client.pid
        os.kill(pid, signal.SIGKILL)
        result = await waiting
        assert result == ControlResult(False, "The engine process ended before it replied")
        starting = await engine.client.control(Sleep())
        assert starting == ControlResult(False, "The engine is being started")
        while engine.client.pid in (pid, None):
            await asyncio.sleep(0.01)
        # The adapter was not established, so the new engine does not load it.
        assert (await engine.tokens(request([5], 2)))[0] == [5, 5]


async def test_a_closed_client_ends_its_requests(tmp_path):
    start = start_message(tmp_path, controls=CONTROLS, control_seconds=30.0)
    engine = Running(start)
    await engine.client.start()
    waiting = asyncio.create_task(engine.client.control(Sleep()))
    await asyncio.sleep(0.1)
    os.kill(engine.client.pid, signal.SIGKILL)
    await engine.client.close()
    assert not (await waiting).ok


async def test_state_is_repeated_in_the_order_in_which_it_can_be_established():
    sent = []
    client = ControlClient(sent.append)

    async def carry_out(control):
        def send(message):
            client.note(ControlReply(message.control_id, ControlResult(True)))

        assert (await client.request(control, send, 1.0)).ok

    for control in (Sleep(), Wake(), LoadAdapter(3, "c"), LoadAdapter(1, "a"), Sleep()):
        await carry_out(control)
    await carry_out(LoadAdapter(2, "b"))
    await carry_out(UnloadAdapter(3))
    replayed = [message.request for message in client.replay()]
    assert replayed == [LoadAdapter(1, "a"), LoadAdapter(2, "b"), Sleep()]


def test_the_digest_of_an_adapter_is_that_of_its_files(tmp_path):
    for name, weights in (("a", b"12"), ("b", b"12"), ("c", b"13")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_bytes(b"{}")
        (tmp_path / name / "adapter_model.safetensors").write_bytes(weights)
    a, b, c = (adapter_digest(tmp_path / name) for name in "abc")
    assert a == b != c
    (tmp_path / "b" / "adapter_config.json").rename(tmp_path / "b" / "other.json")
    assert adapter_digest(tmp_path / "b") != a
    gone = tmp_path / "nowhere"
    assert adapter_digest(gone) != adapter_digest(gone)
