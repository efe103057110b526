"""The engine client with real engine processes that run the null backend."""

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import msgspec
import pytest

from tgi.backend import BackendError, SamplingParams
from tgi.engine.client import EngineClient
from tgi.engine.process import EngineProcess, LivenessLimits
from tgi.errors import UnhealthyError
from tgi.testing.doubles.null_script import NullFailure
from tgi.types import FinishReason

from .engine_setup import SubmittedSequence, request, start_message


class Running:
    """A context manager that runs an engine client and collects its progress messages."""

    def __init__(self, start, **settings):
        self.progress = []
        self.client = EngineClient(start, self.progress.append, **settings)

    async def __aenter__(self):
        await self.client.start()
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    def submit(self, sequence):
        return SubmittedSequence(self.client, sequence)

    @property
    def log(self):
        return [message.text for message in self.progress if message.phase == "log"]


async def collect(stream):
    tokens, last = [], None
    async for output in stream:
        tokens += output.token_ids
        last = output
    return tokens, last


async def test_tokens_logprobs_and_finish(tmp_path):
    async with Running(start_message(tmp_path)) as engine:
        sampling = SamplingParams(logprobs="processed", top_n_tokens=2)
        stream = engine.submit(request([5, 6, 7], sampling=sampling))
        outputs = [output async for output in stream]
        assert [token for o in outputs for token in o.token_ids] == [5, 6, 7, 5]
        assert outputs[-1].finish_reason == FinishReason.LENGTH
        assert outputs[0].logprobs == [-0.5]
        assert outputs[0].top == [((5, -0.5), (6, -1.0))]
        assert engine.client.num_unfinished == 0
        assert await engine.client.check_health(deep=True)
        assert [m.phase for m in engine.progress] == ["load", "warmup"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment from /proc")
async def test_the_engine_process_does_not_inherit_secrets(tmp_path, monkeypatch):
    for name in ("API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "OTHER"):
        monkeypatch.setenv(name, f"value-of-{name}")
    async with Running(start_message(tmp_path)) as engine:
        environment = Path(f"/proc/{engine.client.pid}/environ").read_bytes()
    assert b"OTHER=value-of-OTHER" in environment
    assert environment.count(b"value-of-") == 1


async def test_eos_ends_a_sequence(tmp_path):
    async with Running(start_message(tmp_path)) as engine:
        tokens, last = await collect(engine.submit(request([5, 6, 7], 50, eos_token_ids=(6,))))
        assert tokens == [5, 6]
        assert last.finish_reason == FinishReason.EOS_TOKEN


async def test_an_abort_frees_everything(tmp_path):
    async with Running(start_message(tmp_path, step_seconds=0.005)) as engine:
        stats = []
        engine.client.add_stats_listener(stats.append)
        stream = engine.submit(request([5, 6], 400))
        await anext(stream)
        stream.abort()
        await collect(engine.submit(request([1], 5)))
        while stats[-1].scheduler.num_running:
            await asyncio.sleep(0.01)
        assert stats[-1].scheduler.num_free_blocks == 4096


@pytest.mark.parametrize("kind", ["row", "broken"])
async def test_a_failed_sequence_does_not_affect_the_others(tmp_path, kind):
    script = start_message(tmp_path, failures=(NullFailure(13, kind, after=2),))
    async with Running(script) as engine:
        good, bad = engine.submit(request([1, 2], 6)), engine.submit(request([13], 6))
        (good_tokens, good_last), (_, bad_last) = await asyncio.gather(collect(good), collect(bad))
        assert "scripted" in bad_last.error
        if kind == "row":
            assert good_tokens == [1, 2, 1, 2, 1, 2]
            assert good_last.finish_reason == FinishReason.LENGTH
        tokens, _ = await collect(engine.submit(request([3], 2)))
        assert tokens == [3, 3]


async def test_a_retryable_step_is_retried(tmp_path):
    async with Running(
        start_message(tmp_path, failures=(NullFailure(13, "step", after=2),))
    ) as engine:
        streams = [engine.submit(request(prompt, 6)) for prompt in ([13, 2], [4])]
        results = await asyncio.gather(*map(collect, streams))
        assert [tokens for tokens, _ in results] == [[13, 2, 13, 2, 13, 2], [4] * 6]


@pytest.mark.parametrize("kind", ["exit", "raise"])
async def test_streams_continue_after_an_engine_crash(tmp_path, kind):
    async with Running(
        start_message(tmp_path, failures=(NullFailure(13, kind, after=3),), step_seconds=0.002)
    ) as engine:
        streams = [engine.submit(request([13, 2], 6)), engine.submit(request([5, 6], 40))]
        first, second = await asyncio.gather(*map(collect, streams))
        assert first[0] == [13, 2, 13, 2, 13, 2]
        assert second[0] == [5, 6] * 20
        assert engine.client.is_healthy
        assert ["The engine is restarted" in line for line in engine.log] == [True]


CRASHING = 13
OTHERS = [[5, 6], [7], [8, 9, 10]]


@pytest.mark.parametrize("after", [0, 3])
async def test_only_the_sequence_that_crashes_the_engine_fails(tmp_path, after):
    script = start_message(
        tmp_path, failures=(NullFailure(CRASHING, "exit", after=after),), step_seconds=0.002
    )
    async with Running(script) as engine:
        streams = [engine.submit(request(prompt, 40)) for prompt in [*OTHERS, [CRASHING]]]
        *good, (_, bad) = await asyncio.gather(*map(collect, streams))
        assert "status 3 while it ran this request alone" in bad.error
        assert [tokens for tokens, _ in good] == [(prompt * 40)[:40] for prompt in OTHERS]
        assert engine.client.is_healthy
        again = await collect(engine.submit(request([CRASHING], 40)))
        assert "alone" in again[1].error
        assert (await collect(engine.submit(request([5], 3))))[0] == [5, 5, 5]


async def test_a_client_disconnect_during_crash_isolation_does_not_affect_others(tmp_path):
    script = start_message(tmp_path, failures=(NullFailure(CRASHING, "exit"),), step_seconds=0.01)
    async with Running(script) as engine:
        first, second, crashing = (
            engine.submit(request(prompt, 60)) for prompt in ([5], [6], [CRASHING])
        )
        while "is restarted" not in " ".join(engine.log[1:]):
            await asyncio.sleep(0.01)
        while not engine.client.is_healthy:
            await asyncio.sleep(0.01)
        first.abort()
        late = engine.submit(request([7], 3))
        assert "alone" in (await collect(crashing))[1].error
        assert len((await collect(second))[0]) == 60
        assert (await collect(late))[0] == [7, 7, 7]


async def test_an_engine_that_always_crashes_is_not_restarted(tmp_path):
    script = start_message(tmp_path, failures=(NullFailure(CRASHING, "exit", after=0),))
    async with Running(script) as engine:
        streams = [engine.submit(request([CRASHING, n], 3)) for n in range(3)]
        ends = [last for _, last in await asyncio.gather(*map(collect, streams))]
        assert "alone" in ends[0].error
        assert "the engine process ended with status 3, 4 times within 300 s" in ends[2].error
        assert not engine.client.is_healthy
        assert not await engine.client.check_health(deep=False)
        with pytest.raises(UnhealthyError, match="status 3"):
            engine.submit(request([1]))


async def test_an_engine_that_hangs_is_restarted(tmp_path):
    script = start_message(tmp_path, step_seconds=0.01)
    async with Running(script, limits=LivenessLimits(freeze_seconds=0.5)) as engine:
        stream = engine.submit(request([5, 6], 30))
        await anext(stream)
        os.kill(engine.client.pid, signal.SIGSTOP)
        tokens, last = await collect(stream)
        assert last.finish_reason == FinishReason.LENGTH
        assert [5, *tokens] == [5, 6] * 15
        assert any("sent nothing" in line for line in engine.log)


async def test_an_engine_that_compiles_or_is_idle_is_not_restarted(tmp_path):
    async with Running(
        start_message(tmp_path, compile_seconds=1.5), limits=LivenessLimits(freeze_seconds=0.5)
    ) as engine:
        pid = engine.client.pid
        await asyncio.sleep(0.8)
        tokens, _ = await collect(engine.submit(request([5], 3)))
        assert tokens == [5, 5, 5]
        assert engine.client.pid == pid
        assert "compile" in [message.phase for message in engine.progress]


async def test_a_killed_engine_is_restarted(tmp_path):
    async with Running(start_message(tmp_path, step_seconds=0.01)) as engine:
        stream = engine.submit(request([5, 6], 30))
        await anext(stream)
        os.kill(engine.client.pid, signal.SIGKILL)
        tokens, last = await collect(stream)
        assert last.finish_reason == FinishReason.LENGTH
        assert [5, *tokens] == [5, 6] * 15


async def test_a_failed_start_reports_the_reason(tmp_path):
    with pytest.raises(BackendError, match="no such chip"):
        await EngineClient(start_message(tmp_path, start_failure="no such chip"), print).start()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "raise SystemExit(5)",
            "ended before it connected: the engine process ended with status 5",
        ),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL.*ran out of memory"),
        (
            (
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                " s.recv(9); sys.exit(4)"
            ),
            "ended in phase `start`: the engine process ended with status 4",
        ),
    ],
)
async def test_a_process_that_exits_during_startup_is_explained(tmp_path, code, sentence):
    with pytest.raises(BackendError, match=sentence):
        await EngineProcess.start(
            start_message(tmp_path), print, command=(sys.executable, "-c", code)
        )


async def test_only_this_user_can_open_the_socket(tmp_path):
    code = (
        f"import os, sys; open({str(tmp_path / 'mode')!r},"
        " 'w').write(str(os.stat(sys.argv[1]).st_mode))"
    )
    with pytest.raises(BackendError):
        await EngineProcess.start(
            start_message(tmp_path), print, command=(sys.executable, "-c", code)
        )
    assert stat.S_IMODE(int((tmp_path / "mode").read_text())) == 0o600


async def test_the_engine_exits_with_the_front_end(tmp_path):
    script = start_message(tmp_path)
    code = f"""
import asyncio
from tgi.engine.client import EngineClient
import msgspec
from tgi.engine.messages import FrontendMessage
start = msgspec.msgpack.decode({msgspec.msgpack.encode(script)!r}, type=FrontendMessage)
async def main():
    client = EngineClient(start, lambda p: None)
    await client.start()
    print(client.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    frontend = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    engine_pid = int(await frontend.stdout.readline())
    frontend.kill()
    await frontend.wait()
    async with asyncio.timeout(10):
        while _is_alive(engine_pid):
            await asyncio.sleep(0.02)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
