"""Concurrent tasks and merged streams: order, first failure, cancellation and cleanup."""

import asyncio

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import openai_chunks
from tgi.scheduler.records import SequenceOutput
from tgi.server.generation.concurrency import merge, run_all


async def test_results_keep_their_order():
    async def work(number):
        for _ in range(3 - number):
            await asyncio.sleep(0)
        return number

    assert await run_all([work(i) for i in range(3)]) == [0, 1, 2]


@pytest.mark.parametrize("count", [2, 3])
async def test_the_first_failure_cancels_and_awaits_the_others(count):
    ended = []

    async def wait():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def fail():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_all([*[wait() for _ in range(count - 1)], fail()])
    assert ended == [True] * (count - 1)


async def numbers(first, count, closed):
    try:
        for number in range(first, first + count):
            await asyncio.sleep(0)
            yield number
    finally:
        closed.append(first)


async def test_merged_streams_keep_the_order_of_each_stream():
    closed = []
    found = [
        item
        async for item in merge(
            [numbers(0, 3, closed), numbers(10, 5, closed), numbers(20, 0, closed)]
        )
    ]
    assert [n for n in found if n < 10] == [0, 1, 2]
    assert [n for n in found if n >= 10] == [10, 11, 12, 13, 14]
    assert sorted(closed) == [0, 10, 20]


async def test_closing_a_merged_stream_closes_its_sources():
    closed = []
    merged = merge([numbers(0, 100, closed), numbers(200, 100, closed)])
    assert await anext(merged) in {0, 200}
    await merged.aclose()
    assert sorted(closed) == [0, 200]


async def test_a_failing_source_ends_a_merged_stream():
    closed = []

    async def failing():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async for _ in merge([numbers(0, 10_000, closed), failing()]):
            pass
    assert closed == [0]


@pytest.mark.parametrize("num_prompts", [1, 2])
async def test_a_client_disconnect_aborts_every_sequence(make_app, tokenizer, num_prompts):
    token = tokenizer.encode("fox").ids[-1]
    engine = FakeEngine([SequenceOutput(0, [token])])  # one token each, then silence
    app = make_app(engine, max_concurrent_requests=4)
    body = f'{{"prompt":{["a"] * num_prompts},"n":2,"stream":true}}'.replace("'", '"').encode()
    received = [{"type": "http.request", "body": body}]

    async def receive():
        if received:
            return received.pop()
        while len(engine.requests) < 2 * num_prompts:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message):
        del message

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    assert sorted(engine.aborted) == list(range(2 * num_prompts))
    assert len(engine.requests) == 2 * num_prompts


async def test_sequences_of_one_stream_end_one_by_one(make_client):
    async with make_client(max_concurrent_requests=8) as client:
        body = {"prompt": ["a", "b"], "n": 4, "max_tokens": 2, "stream": True}
        parsed = openai_chunks((await client.post("/v1/completions", json=body)).text)
    assert sorted({chunk["choices"][0]["index"] for chunk in parsed}) == list(range(8))
