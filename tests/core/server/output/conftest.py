"""Fixtures that send a scripted output through the chat routes."""

import dataclasses

import pytest

from tests.core.server.fake_engine import LOGPROB, FakeEngine
from tests.stream_checks import messages_events, openai_chunks, responses_events
from tgi.scheduler.records import SequenceOutput
from tgi.text import Tokenizer
from tgi.text.output import OutputFormats
from tgi.types import FinishReason

TEMPLATE = (
    "{% if tools %}{{ tools | length }} tools\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NAMES = ("get_weather", "now")
HI = {"role": "user", "content": "hi"}
BODIES = {
    "/v1/chat/completions": {
        "messages": [HI],
        "tools": [
            {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES
        ],
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {
        "input": "hi",
        "tools": [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES],
    },
    "/v1/messages": {
        "messages": [HI],
        "max_tokens": 400,
        "tools": [{"name": name, "input_schema": SCHEMA} for name in NAMES],
    },
}
READERS = {
    "/v1/chat/completions": openai_chunks,
    "/v1/responses": responses_events,
    "/v1/messages": messages_events,
}
HERMES = OutputFormats.detect("<tool_call> <think>", {})


@pytest.fixture(scope="session")
def marked_tokenizer(tiny_model):
    """A tokenizer with special tokens for the markers of Mistral and gpt-oss."""
    tokenizer = Tokenizer.load(tiny_model)
    markers = ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "[OTHER]"]
    names = ("start", "end", "channel", "message", "constrain", "call", "return")
    markers += [f"<|{name}|>" for name in names]
    tokenizer.backend.add_special_tokens(markers)
    ids = {tokenizer.backend.token_to_id(marker) for marker in markers}
    return dataclasses.replace(tokenizer, special_ids=tokenizer.special_ids | ids)


class ScriptedEngine(FakeEngine):
    """An engine with other outputs for each sequence. The last outputs are repeated."""

    def __init__(self, outputs):
        super().__init__([])
        self._scripts = list(outputs)

    def submit(self, request, outputs):
        self.outputs = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        return super().submit(request, outputs)


def outputs_of(tokenizer, text, finish):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if finish is FinishReason.EOS_TOKEN:
        ids.append(tokenizer.eos_token_ids[0])
    return [
        SequenceOutput(0, [token], finish if place == len(ids) - 1 else None, logprobs=[LOGPROB])
        for place, token in enumerate(ids)
    ]


@pytest.fixture
def send(make_client, make_template, tokenizer):
    """Return a function that sends a body and returns the response: `await send(path, output,
    field=value, …)`. The engine returns the tokens of the text `output`. If `output` is a list, the
    sequences have different texts. A stream is returned as a list of its parsed events. The list
    `engines` of the function contains the engines of all requests.
    """

    async def run(
        path,
        output,
        *,
        finish=FinishReason.EOS_TOKEN,
        formats=HERMES,
        tokenizer=tokenizer,
        template=TEMPLATE,
        **fields,
    ):
        texts = [output] if isinstance(output, str) else output
        engine = ScriptedEngine([outputs_of(tokenizer, text, finish) for text in texts])
        run.engines.append(engine)
        client = make_client(
            engine,
            output_formats=formats,
            tokenizer=tokenizer,
            chat_template=make_template(template),
            max_input_tokens=1000,
            max_total_tokens=2000,
            max_concurrent_requests=8,
        )
        async with client:
            response = await client.post(path, json=BODIES[path] | fields)
        assert response.status_code == 200, response.text
        return READERS[path](response.text) if fields.get("stream") else response.json()

    run.engines = []
    return run
