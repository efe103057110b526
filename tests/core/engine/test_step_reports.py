"""The step statistics for the metrics: failed steps, reasons for joining, and aborts."""

import asyncio

import pytest

from tests.core.engine.engine_setup import request, start_message
from tests.core.engine.test_client import Running, collect
from tgi.testing.doubles.null_backend import NullFailure


async def wait_until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_failed_step_is_reported_as_failed(tmp_path):
    stats = []
    async with Running(
        start_message(tmp_path, failures=(NullFailure(13, "step", after=2),))
    ) as engine:
        engine.client.add_stats_listener(stats.append)
        await collect(engine.submit(request([13, 2], 6)))
        await wait_until(lambda: any(s.is_failed for s in stats))
    failed = [s for s in stats if s.is_failed]
    assert [(s.scheduler.method, s.forward_ns) for s in failed] == [("decode", 0)]
    assert all(s.update_ns > 0 for s in stats if s.scheduler.method and not s.is_failed)


async def test_after_an_abort_nothing_runs(tmp_path):
    stats = []
    async with Running(start_message(tmp_path, step_seconds=0.002)) as engine:
        engine.client.add_stats_listener(stats.append)
        stream = engine.submit(request([1, 2], 400))
        await anext(stream)
        await wait_until(lambda: stats and stats[-1].scheduler.num_running == 1)
        stream.abort()
        await wait_until(lambda: stats[-1].scheduler.num_running == 0)
        assert not stats[-1].scheduler.num_used_tokens


@pytest.mark.parametrize(
    ("mixed", "reasons"), [(True, {"chunking"}), (False, {"backpressure", "wait_exceeded"})]
)
async def test_the_reason_for_joining(tmp_path, mixed, reasons):
    stats = []
    async with Running(start_message(tmp_path, mixed=mixed, step_seconds=0.002)) as engine:
        engine.client.add_stats_listener(stats.append)
        first = engine.submit(request([1, 2], 60))
        await anext(first)
        await collect(engine.submit(request([3, 4], 2)))
        first.abort()
    joined = [s.scheduler.join_reason for s in stats if s.scheduler.has_joined]
    assert joined
    assert set(joined) <= reasons
