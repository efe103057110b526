"""Random JSON schemas against running servers: every complete answer is valid, on every backend
that applies masks. `jsonschema` checks the answers.

The null backend returns a random token that the mask allows, so its answers show every value that a
grammar allows. The other backends sample with random weights or with the demo model.
"""

import asyncio
import json
from pathlib import Path
from random import Random

import httpx
import jsonschema
import pytest

from tests.core.grammar import generated
from tests.live_server import running_server

DEMO_MODEL = Path(__file__).parents[2] / "core" / "tgi" / "demo" / "model"
SECONDS = 300
NUM_USERS = 16
ARGUMENTS = {"null": ("--max-batch-total-tokens", "8192"), "tpu": ("--tpu-platform", "cpu")}


@pytest.fixture(scope="module")
def server(request, tmp_path_factory, tiny_model):
    backend, model = request.param
    log = tmp_path_factory.mktemp("guided") / "server.log"
    with running_server(model or tiny_model, backend, log, *ARGUMENTS.get(backend, ())) as running:
        yield running


async def answer(client, slots, schema, seed):
    """The status and the text of an answer. The text is None if the length limit ended it."""
    parameters = {
        "max_new_tokens": 120,
        "do_sample": True,
        "seed": seed,
        "details": True,
        "grammar": {"type": "json", "value": schema},
    }
    async with slots:
        response = await client.post(
            "/generate", json={"inputs": "JSON:", "parameters": parameters}
        )
    body = response.json()
    if response.status_code != 200:
        return response.status_code, body["error"]
    is_complete = body["details"]["finish_reason"] == "eos_token"
    return 200, body["generated_text"] if is_complete else None


async def check_schemas(server, num_schemas, num_seeds):
    """Returns the number of complete answers."""
    slots, num_complete, num_rejected = asyncio.Semaphore(NUM_USERS), 0, 0
    async with httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client:
        for number in range(num_schemas):
            schema = generated.root(Random(number))
            answers = await asyncio.gather(
                *(answer(client, slots, schema, seed) for seed in range(num_seeds))
            )
            statuses = {status for status, _ in answers}
            assert len(statuses) == 1, (schema, answers)
            if statuses != {200}:
                assert statuses == {422}, (schema, answers)
                num_rejected += 1
                continue
            validator = jsonschema.Draft202012Validator(schema)
            for _, text in answers:
                if text is not None:
                    num_complete += 1
                    assert validator.is_valid(json.loads(text)), (schema, text)
    assert num_rejected <= num_schemas // 4
    return num_complete


NULL = pytest.param(("null", None), id="null")
OTHERS = [
    pytest.param(("cpu", DEMO_MODEL), id="cpu"),
    pytest.param(("static", None), id="static"),
    pytest.param(("tpu", None), id="tpu"),
    pytest.param(("complete-late", None), id="complete-late"),
]


@pytest.mark.parametrize("server", [NULL, OTHERS[0]], indirect=True)
async def test_answers_are_valid(server):
    assert await check_schemas(server, 12, 2) > 6


@pytest.mark.long
@pytest.mark.parametrize("server", OTHERS, indirect=True)
async def test_answers_to_50_schemas_are_valid(server):
    assert await check_schemas(server, 50, 4) > 60


@pytest.mark.long
@pytest.mark.parametrize("server", [NULL], indirect=True)
async def test_answers_to_500_schemas_are_valid(server):
    assert await check_schemas(server, 500, 20) > 5000
