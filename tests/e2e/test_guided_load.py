"""Many grammars, and grammars that would need much time or memory, beside one plain stream on a
running server. The tests assert counts of the work and the memory. They print the gaps of the plain
stream, which depend on other programs on the machine.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from random import Random

import httpx
import psutil
import pytest

from tests.core.grammar import generated
from tests.core.grammar.test_hostile import CASES, text_of
from tests.e2e.stream_watcher import Watcher
from tests.live_server import running_server

MODEL = Path(__file__).parents[2] / "core" / "tgi" / "demo" / "model"
SECONDS = 300
NUM_USERS = 8
NUM_TOKENS = 24
MAX_GROWTH = 20 << 20  # bytes
SCRIPT = {"step_seconds": 0.005}


@pytest.fixture
def server(tmp_path):
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT), encoding="utf-8")
    arguments = ("--null-script", str(script))
    with running_server(MODEL, "null", tmp_path / "server.log", *arguments) as server:
        yield server


@pytest.fixture
async def client(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
        yield client


async def counters(client):
    lines = (await client.get("/metrics")).text.splitlines()
    series = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in series}


def process_bytes(server):
    """The resident memory of the front end and of the engine, in bytes."""
    process = psutil.Process(server.pid)
    (engine,) = (child for child in process.children() if "tgi.engine" in child.cmdline())
    return process.memory_info().rss, engine.memory_info().rss


def unique_schema(number):
    schema = generated.root(Random(number))
    schema["properties"][f"unique {number}"] = {"type": "integer"}
    return json.dumps(schema)


async def generate(client, kind, value, seed=0, num_tokens=NUM_TOKENS):
    """The status and the number of output tokens of a response, or -1 for an error in the stream of
    tokens.
    """
    field = {"json_schema": "json", "lark": "grammar"}.get(kind, kind)
    if kind == "choice":
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    body = {
        "model": "tgi",
        "prompt": "a guided response",
        "max_tokens": num_tokens,
        "temperature": 1,
        "seed": seed,
        "structured_outputs": {field: value if kind != "json_object" else True},
    }
    # The client's own JSON encoder rejects unpaired surrogates.
    response = await client.post(
        "/v1/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    usage = response.json().get("usage") or {}
    return response.status_code, usage.get("completion_tokens", -1)


async def run_users(client, numbers):
    """Send one request per number, from `NUM_USERS` users. Returns the number of responses by
    status, and the number of output tokens.
    """
    statuses, num_tokens, left = {}, 0, iter(numbers)

    async def user():
        nonlocal num_tokens
        for number in left:
            status, count = await generate(client, "json_schema", unique_schema(number), number)
            statuses[status] = statuses.get(status, 0) + 1
            num_tokens += max(count, 0)

    await asyncio.gather(*(user() for _ in range(NUM_USERS)))
    return statuses, num_tokens


async def check_soak(server, client, num_first, num_grammars):
    with Watcher(server.url) as watcher:
        await asyncio.sleep(5)
        print("\nplain stream alone:", watcher.take())
        statuses, num_tokens = await run_users(client, range(num_first))
        before, first = process_bytes(server), await counters(client)
        print("plain stream beside the first grammars:", watcher.take())
        statuses, num_tokens = await run_users(client, range(num_first, num_grammars))
        after, last = process_bytes(server), await counters(client)
        print("plain stream beside all other grammars:", watcher.take())
    work = {name: last[name] - first.get(name, 0) for name in last if name.startswith("tgi_gram")}
    work = {name: value for name, value in work.items() if "_bucket" not in name}
    growth = [end - begin for begin, end in zip(before, after, strict=True)]
    print(f"{statuses}, {num_tokens} tokens, memory {before} + {growth} bytes, {work}")
    assert set(statuses) <= {200, 422}
    assert statuses[200] > (num_grammars - num_first) // 2
    # One mask per token of a constrained sequence, and none for the plain stream.
    assert work["tgi_grammar_mask_count"] == num_tokens
    assert work["tgi_grammar_compile_duration_count"] == statuses[200]
    assert max(growth) < MAX_GROWTH, growth


async def test_many_grammars_beside_a_stream(server, client):
    await check_soak(server, client, 300, 600)


@pytest.mark.long
async def test_10000_grammars_beside_a_stream(server, client):
    await check_soak(server, client, 500, 10_000)


async def check_hostile(server, client, cases):
    """Send all cases one after another. Then send the valid cases from several users at once."""
    wrong, valid = [], []
    with Watcher(server.url) as watcher:
        await asyncio.sleep(5)
        print("\nplain stream alone:", watcher.take())
        for case in cases:
            status, count = await generate(client, case["kind"], text_of(case))
            await asyncio.sleep(0.05)  # the gap after the response is a gap of this case
            gaps = watcher.take()
            print(f"{gaps.largest:7.1f} ms {status} {case['name']} {count} {gaps.long}")
            # With some vocabularies, a grammar exceeds its limit only at a later mask: 424.
            if status == 200 and "error" not in case:
                valid.append(case)
            elif status not in {400, 413, 422, 424}:
                wrong.append((case["name"], status))
            if not gaps.num_events:
                wrong.append((case["name"], gaps))
        left = iter(valid * 3)

        async def user():
            for case in left:
                await generate(client, case["kind"], text_of(case), num_tokens=200)

        await asyncio.gather(*(user() for _ in range(NUM_USERS)))
        print("plain stream beside all valid cases:", watcher.take())
        assert (await client.get("/health")).status_code == 200
    assert not wrong
    assert len(valid) > sum("error" not in case for case in cases) // 2


async def test_hostile_grammars_beside_a_stream(server, client):
    await check_hostile(server, client, CASES[::9])


@pytest.mark.long
async def test_all_hostile_grammars_beside_a_stream(server, client):
    await check_hostile(server, client, CASES)
