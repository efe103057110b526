"""Grammars, structured output and tools through client libraries, with the demo model on the CPU.
The demo model was trained to call tools.
"""

import json
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient

from tests.compat.guided.weather import QUESTION, TOOL
from tests.compat.test_clients import run_session
from tests.live_server import running_server

DEMO_MODEL = Path(__file__).parents[3] / "core" / "tgi" / "demo" / "model"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
}


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory):
    log = tmp_path_factory.mktemp("demo") / "server.log"
    with running_server(DEMO_MODEL, "cpu", log) as server:
        yield server


@pytest.mark.parametrize("name", ["openai", "anthropic", "text_generation"])
def test_the_client_works(demo_server, name):
    run_session(f"guided/{name}", demo_server.url)


@pytest.mark.long
@pytest.mark.parametrize("name", ["langchain", "litellm"])
def test_the_large_client_works(demo_server, name):
    run_session(f"guided/{name}", demo_server.url)


def test_text_generation_of_huggingface_hub_applies_a_grammar(demo_server):
    client = InferenceClient(demo_server.url)
    grammar = {"type": "json", "value": SCHEMA}
    text = client.text_generation(
        "JSON:", grammar=grammar, max_new_tokens=80, return_full_text=False
    )
    assert set(json.loads(text)) == {"city", "degrees"}


def test_chat_completion_of_huggingface_hub_applies_a_schema(demo_server):
    client = InferenceClient(demo_server.url)
    formats = [
        {"type": "json", "value": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}},
    ]
    for response_format in formats:
        response = client.chat_completion(
            QUESTION, response_format=response_format, max_tokens=80, temperature=0
        )
        assert set(json.loads(response.choices[0].message.content)) == {"city", "degrees"}


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_chat_completion_of_huggingface_hub_calls_tools(demo_server, choice):
    client = InferenceClient(demo_server.url)
    options = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 60, "temperature": 0}
    whole = client.chat_completion(QUESTION, **options)
    [call] = whole.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Vienna"}
    chunks = list(client.chat_completion(QUESTION, stream=True, **options))
    pieces = [
        part.function.arguments or ""
        for chunk in chunks
        for choice in chunk.choices
        for part in choice.delta.tool_calls or []
    ]
    assert "".join(pieces) == call.function.arguments
