"""Restarts of the engine on a virtual clock: crashes with and without progress, failed startups,
killed processes and exhausted memory.
"""

import asyncio

import pytest

from tgi.engine.stream import OutputQueue
from tgi.errors import UnhealthyError
from tgi.types import FinishReason

from .engine_setup import SubmittedSequence, request
from .fake_process import STEP_SECONDS, FakeMachine
from .virtual_time import run

PROMPTS = [[5, 6, 7], [8], [9, 10]]


async def collect(stream):
    outputs = [output async for output in stream]
    return [token for output in outputs for token in output.token_ids], outputs[-1]


def supervised(scenario, **settings):
    """Run a scenario with a machine whose first engine process is ready."""

    def test(tmp_path):
        async def main():
            machine = FakeMachine(tmp_path, **settings)
            await machine.client.start()
            await scenario(machine)
            await machine.client.close()

        run(main())

    return test


async def crash_without_progress(machine, times):
    for _ in range(times):
        machine.process.end("the engine process ended with status 3")
        await asyncio.sleep(machine.start_seconds + 2 * STEP_SECONDS)


@pytest.mark.parametrize("start_seconds", [1.0, 500.0])
def test_streams_survive_a_hundred_kills_with_the_same_tokens(tmp_path, start_seconds):
    async def scenario(machine):
        length = 400
        streams = [
            asyncio.create_task(collect(SubmittedSequence(machine.client, request(p, length))))
            for p in PROMPTS
        ]
        for _ in range(100):
            await asyncio.sleep(3.5 * STEP_SECONDS)
            machine.process.end("the engine process was ended by SIGKILL", is_from_outside=True)
            await machine.restarted()
        for prompt, (tokens, last) in zip(PROMPTS, await asyncio.gather(*streams), strict=True):
            assert tokens == (prompt * length)[:length]
            assert last.finish_reason is FinishReason.LENGTH
        assert len(machine.processes) == 101

    supervised(scenario, start_seconds=start_seconds)(tmp_path)


@pytest.mark.parametrize("start_seconds", [1.0, 500.0])
def test_crashes_without_progress_end_the_restarts_for_a_time(tmp_path, start_seconds):
    async def scenario(machine):
        client = machine.client
        await crash_without_progress(machine, 4)
        with pytest.raises(UnhealthyError, match="status 3, 4 times") as raised:
            client.submit(request([1]), OutputQueue())
        assert 1 <= raised.value.retry_after <= 10
        await machine.restarted()
        tokens, _ = await collect(SubmittedSequence(client, request([5, 6], 3)))
        assert tokens == [5, 6, 5]
        machine.process.end("the engine process ended with status 4")
        await asyncio.sleep(2 * STEP_SECONDS)
        assert not client.failure, "the progress did not end the pauses"

    supervised(scenario, start_seconds=start_seconds)(tmp_path)


def test_a_failed_restart_is_tried_again_and_the_stream_continues(tmp_path):
    async def scenario(machine):
        stream = SubmittedSequence(machine.client, request([5, 6], 9))
        await anext(stream)
        machine.failures = 3
        machine.process.end("the engine process ended with status 3")
        tokens, last = await collect(stream)
        assert [5, *tokens] == [5, 6, 5, 6, 5, 6, 5, 6, 5]
        assert last.finish_reason is FinishReason.LENGTH
        assert any("The engine process hangs" in line for line in machine.log)

    supervised(scenario)(tmp_path)


def test_restarts_that_fail_for_hours_are_still_tried(tmp_path):
    async def scenario(machine):
        stream = SubmittedSequence(machine.client, request([5, 6], 9))
        machine.failures = 40
        machine.process.end("the engine process ended with status 3")
        _, last = await collect(stream)
        assert "The engine process hangs" in last.error
        waits = []
        for _ in range(4):
            await asyncio.sleep(600)
            with pytest.raises(UnhealthyError, match="The engine process hangs") as raised:
                machine.client.submit(request([1]), OutputQueue())
            waits.append(raised.value.retry_after)
        assert all(1 <= wait <= 300 for wait in waits)
        await machine.restarted()
        assert (await collect(SubmittedSequence(machine.client, request([3], 2))))[0] == [3, 3]

    supervised(scenario)(tmp_path)


def test_gauges_count_no_running_request_of_an_engine_that_has_ended(tmp_path):
    async def scenario(machine):
        streams = [SubmittedSequence(machine.client, request(p, 99)) for p in PROMPTS]
        await anext(streams[0])
        assert machine.gauges[-1] == (3, 0)
        machine.process.end("the engine process ended with status 3")
        await asyncio.sleep(2 * STEP_SECONDS)
        assert machine.gauges[-1] == (0, 3)
        streams[0].abort()
        assert machine.gauges[-1] == (0, 2)
        machine.failures = 9
        while not machine.client.failure:
            await asyncio.sleep(STEP_SECONDS)
        assert machine.gauges[-1] == (0, 0)

    supervised(scenario)(tmp_path)


def test_after_memory_ran_out_the_next_engine_has_a_smaller_cache(tmp_path):
    async def scenario(machine):
        sizes = []
        for _ in range(6):
            stream = SubmittedSequence(machine.client, request([1], 9))
            await anext(stream)
            machine.num_kills += 1
            machine.process.end("the engine process was ended by SIGKILL", is_from_outside=True)
            await machine.restarted()
            stream.abort()
            sizes.append(machine.client.agreement.kv_cache.max_batch_total_tokens)
        assert sizes == [512, 256, 128, 64, 64, 64]
        assert machine.process.start.requested.max_total_tokens == 64
        lines = [line for line in machine.log if "memory ran out" in line]
        assert "a cache of 512 tokens instead of 1024" in lines[0]
        assert "already has the minimum size" in lines[-1]

    supervised(scenario)(tmp_path)


def test_a_kill_by_an_operator_keeps_the_cache(tmp_path):
    async def scenario(machine):
        machine.process.end("the engine process was ended by SIGKILL", is_from_outside=True)
        await machine.restarted()
        assert machine.process.start == machine.processes[0].start

    supervised(scenario)(tmp_path)


def test_at_the_end_of_the_server_all_sequences_end_with_its_error(tmp_path):
    async def scenario(machine):
        queue, error = OutputQueue(), UnhealthyError("The server ends.")
        machine.client.submit(request([5], 99), queue)
        await queue.get()
        machine.client.end_requests(error)
        await queue.get()
        assert queue.failure is error
        assert machine.client.num_unfinished == 0
        with pytest.raises(UnhealthyError, match="The server ends"):
            machine.client.submit(request([5]), OutputQueue())

    supervised(scenario)(tmp_path)
