"""Many concurrent streams on a real model: none fails, each returns all its tokens, and the batch
and the queue are empty afterwards.
"""

import asyncio
import json

import httpx
import pytest

from tests.live_server import running_server

NUM_STREAMS = 32
NUM_TOKENS = 24


async def stream(client, number):
    """Send one streaming request, whose prompt length depends on `number`. Returns its events."""
    parameters = {
        "max_new_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "do_sample": bool(number % 2),
        "seed": number,
    }
    body = {"inputs": "one two three " * (1 + number % 7), "parameters": parameters}
    async with client.stream("POST", "/generate_stream", json=body) as response:
        assert response.status_code == 200
        return [
            json.loads(line.removeprefix("data: ")) async for line in response.aiter_lines() if line
        ]


async def gauges(client):
    lines = (await client.get("/metrics")).text.splitlines()
    series = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in series}


@pytest.fixture
def server(tiny_model, tmp_path):
    with running_server(tiny_model, "cpu", tmp_path / "server.log") as server:
        yield server


async def test_concurrent_streams_are_complete(server):
    async with httpx.AsyncClient(
        base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=64)
    ) as client:
        results = await asyncio.gather(*(stream(client, number) for number in range(NUM_STREAMS)))
        for events in results:
            assert [event["index"] for event in events] == list(range(1, NUM_TOKENS + 1))
            assert [event["generated_text"] is None for event in events] == [True] * (
                NUM_TOKENS - 1
            ) + [False]
        after = await gauges(client)
        while after["tgi_batch_current_size"]:
            await asyncio.sleep(0.05)
            after = await gauges(client)
        assert after["tgi_batch_current_max_tokens"] == 0
        assert after["tgi_queue_size"] == 0
        assert after["tgi_request_success"] >= NUM_STREAMS
        assert not [name for name in after if name.startswith("tgi_request_failure")]
        # The same prompt and seed yield the same tokens alone as in a batch with other sequences.
        alone = await stream(client, 5)
        assert [event["token"]["id"] for event in alone] == [
            event["token"]["id"] for event in results[5]
        ]
