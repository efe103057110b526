"""Fixtures for chats: a tool format that records its calls, and functions that convert bodies."""

import dataclasses
import json

import msgspec
import pytest

from tgi.grammar.constraint import Constraint
from tgi.server.anthropic.requests import message_request
from tgi.server.anthropic.schemas import MessagesRequest
from tgi.server.openai.requests import chat_request
from tgi.server.openai.responses_api_input import response_request
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.schemas import ChatRequest
from tgi.text.output import ReasoningFormat
from tgi.text.output.formats import OutputFormats

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
WITH_TOOLS = "{% if tools %}{{ tools | tojson }}\n{% endif %}" + PLAIN
CONVERTERS = {
    "/v1/chat/completions": (ChatRequest, chat_request),
    "/v1/responses": (ResponsesRequest, response_request),
    "/v1/messages": (MessagesRequest, message_request),
}
HI = {"role": "user", "content": "hi"}
BODIES = {
    "/v1/chat/completions": {"messages": [HI]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [HI], "max_tokens": 20},
}


@dataclasses.dataclass(frozen=True)
class NamedFormat:
    """A tool format whose constraint contains the arguments with which it was requested. The whole
    output is text.
    """

    name: str = "named"
    markers: tuple[str, ...] = ()

    def parse(self, reader, writer, tools):
        yield from reader.rest(writer.text)

    def constraint(self, tools, choice, *, is_parallel):
        schemas = {tool.name: json.loads(tool.parameters) for tool in tools}
        return Constraint("lark", json.dumps([choice.value, is_parallel, schemas]))


FORMATS = OutputFormats(NamedFormat())
THINKING = OutputFormats(NamedFormat(), ReasoningFormat("think"))


@pytest.fixture
def convert(make_state, make_template):
    """Return a function that converts a body to a `TextRequest`: `await convert(path, source,
    formats, field=value, …)`.
    """

    async def run(path, source=WITH_TOOLS, formats=FORMATS, **fields):
        record, converter = CONVERTERS[path]
        body = msgspec.convert(BODIES[path] | fields, record)
        template = make_template(source)
        return await converter(body, make_state(chat_template=template, output_formats=formats))

    return run
