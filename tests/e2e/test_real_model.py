"""Structured output with real weights: SmolLM2-135M-Instruct on the CPU.

`make test-long` downloads the weights. Random weights do not show whether a model repeats white
space for ever, or whether a schema and the style of a trained model fit together.
"""

import itertools
import json
from pathlib import Path

import httpx
import jsonschema
import pytest

from tests.live_server import running_server

MODEL = Path(__file__).parents[2] / ".real-weights" / "smollm2"
SECONDS = 300
MAX_TOKENS = 200

CITIES = ("Vienna", "Oslo", "Lisbon", "Prague", "Kyoto", "Lima", "Cairo", "Quito", "Riga", "Bern")
TOPICS = (
    "a person who lives in {}",
    "the weather in {}",
    "a train to {}",
    "a recipe from {}",
    "a hotel in {}",
    "three sights of {}",
    "a bill of a shop in {}",
    "a meeting in {}",
    "a small animal from {}",
    "the number of people in {}",
)
TEXT = {"type": "string", "maxLength": 24}
SCHEMAS = (
    {
        "type": "object",
        "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "sky": {"enum": ["clear", "cloudy", "rainy"]},
            "degrees": {"type": "integer", "minimum": -40, "maximum": 50},
        },
        "required": ["sky", "degrees"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "from": TEXT,
            "departure": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"},
            "is_direct": {"type": "boolean"},
        },
        "required": ["from", "departure", "is_direct"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "title": TEXT,
            "ingredients": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 4},
        },
        "required": ["title", "ingredients"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "name": TEXT,
            "address": {
                "type": "object",
                "properties": {"street": TEXT, "number": {"type": "integer", "maximum": 999}},
                "required": ["street"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "address"],
        "additionalProperties": False,
    },
)


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    assert MODEL.is_dir(), "the real weights do not exist: run `make test-long`"
    log = tmp_path_factory.mktemp("real") / "server.log"
    with running_server(MODEL, "cpu", log) as server:
        yield server


def questions():
    """100 questions, each with one of the schemas."""
    schemas = itertools.cycle(SCHEMAS)
    for city, topic in itertools.product(CITIES, TOPICS):
        yield f"Describe {topic.format(city)} as JSON.", next(schemas)


def chat_body(question, schema, *, stream):
    schema_format = {
        "type": "json_schema",
        "json_schema": {"name": "description", "schema": schema},
    }
    return {
        "messages": [{"role": "user", "content": question}],
        "response_format": schema_format,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.7,
        "seed": 3,
        "stream": stream,
    }


def streamed_choice(client, body):
    text, reason = "", None
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            [choice] = json.loads(line.removeprefix("data: "))["choices"]
            text += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
    return text, reason


@pytest.mark.long
def test_100_answers_follow_their_schemas(real_server):
    with httpx.Client(base_url=real_server.url, timeout=SECONDS) as client:
        for question, schema in questions():
            plain = client.post(
                "/v1/chat/completions", json=chat_body(question, schema, stream=False)
            )
            assert plain.status_code == 200, plain.text
            [choice] = plain.json()["choices"]
            text = choice["message"]["content"]
            assert choice["finish_reason"] == "stop", (question, text)
            jsonschema.validate(json.loads(text), schema)
            assert "\n" not in text, text
            streamed = streamed_choice(client, chat_body(question, schema, stream=True))
            assert streamed == (text, "stop"), question


@pytest.mark.long
def test_a_real_model_calls_a_required_tool(real_server):
    tool = {"type": "function", "function": {"name": "save_person", "parameters": SCHEMAS[0]}}
    body = {
        "messages": [{"role": "user", "content": "Save Anna, who is 31 years old."}],
        "tools": [tool],
        "tool_choice": "required",
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    response = httpx.post(
        f"{real_server.url}/v1/chat/completions", json=body, timeout=SECONDS
    ).json()
    [choice] = response["choices"]
    assert choice["finish_reason"] == "tool_calls", response
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "save_person"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[0])
