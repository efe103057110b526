"""Responses have one definition: the records that the OpenAPI document shows are those that the
routes write.
"""

import ast
import dataclasses
import json
import math
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.house.sources import CORE
from tgi.server.generation.output import GeneratedToken, ScoredToken
from tgi.server.generation.parameters import GenerateParameters
from tgi.server.http.json_format import format_f32, format_json, round_f32
from tgi.server.native.response_bodies import format_stream_response, json_f32, stream_response
from tgi.server.native.response_schemas import SimpleToken, Token
from tgi.server.openai.logprobs import chat_logprobs, completion_logprobs
from tgi.server.openai.response_bodies import (
    CHAT_CHUNK,
    COMPLETION_CHUNK,
    ChunkWriter,
    Envelope,
)
from tgi.server.openai.response_schemas import (
    ChatCompletionChunk,
    ChatCompletionChunkChoice,
    ChatCompletionDelta,
    Completion,
    CompletionChoice,
)
from tgi.server.openapi.operations import OPERATIONS
from tgi.text import TokenSpan
from tgi.text.tokenizer import json_blocks
from tgi.types import FinishReason

TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", "\n", "\x00", "\\u0000", "\u2028"])
LOGPROBS = st.none() | st.floats(max_value=0, width=32)
SCORED = st.builds(
    ScoredToken,
    id=st.integers(0, 2**32 - 1),
    text=TEXTS,
    logprob=LOGPROBS,
    special=st.booleans(),
    data=st.binary(max_size=4),
)


class Ended:
    """The part of a complete sequence that a chunk contains."""

    def __init__(self, finish_reason):
        self.finish_reason = finish_reason


TOKENS = st.builds(
    GeneratedToken,
    sequence=st.integers(0, 3),
    index=st.integers(1, 9),
    id=st.integers(0, 2**32 - 1),
    text=TEXTS,
    logprob=LOGPROBS,
    special=st.booleans(),
    piece=TEXTS,
    top_tokens=st.lists(SCORED, max_size=2),
    data=st.binary(max_size=4),
    result=st.none() | st.sampled_from(FinishReason).map(Ended),
)
REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}


def envelope(record, name, model):
    return Envelope(record, name, "id-1", 1_700_000_000, model, "4.0.0-native")


def choice_of(shape, token, index, text_offset, has_logprobs, is_first):
    """The choice of a chunk as a record."""
    reason = None if token.result is None else REASONS[token.result.finish_reason]
    if shape is CHAT_CHUNK:
        logprobs = chat_logprobs([token]) if has_logprobs else None
        opening = {"role": "assistant"} if is_first else {}
        delta = ChatCompletionDelta(**opening, content=token.plain_text)
        return ChatCompletionChunkChoice(index, delta, logprobs, reason)
    logprobs = completion_logprobs([token], text_offset) if has_logprobs else None
    return CompletionChoice(index, token.plain_text, logprobs, reason)


@pytest.mark.parametrize(
    ("shape", "record", "name"),
    [
        (CHAT_CHUNK, ChatCompletionChunk, "chat.completion.chunk"),
        (COMPLETION_CHUNK, Completion, "text_completion"),
    ],
    ids=["chat", "completion"],
)
@given(
    tokens=st.lists(TOKENS, max_size=4),
    model=TEXTS,
    first_index=st.integers(0, 8),
    has_logprobs=st.booleans(),
)
def test_a_chunk_is_its_record(shape, record, name, tokens, model, first_index, has_logprobs):
    shared = envelope(record, name, model)
    writer = ChunkWriter(shared, shape, first_index, 4, has_logprobs=has_logprobs)
    offsets = {}
    for token in tokens:
        is_first = token.sequence not in offsets
        offset = offsets.get(token.sequence, 0)
        offsets[token.sequence] = offset + (0 if token.special else len(token.piece))
        choice = choice_of(
            shape, token, first_index + token.sequence, offset, has_logprobs, is_first
        )
        assert writer.chunk(token) == shared.encode([choice], None)


@given(text=TEXTS, model=TEXTS)
def test_a_chunk_of_echoed_text_is_its_record(text, model):
    shared = envelope(Completion, "text_completion", model)
    writer = ChunkWriter(shared, COMPLETION_CHUNK, 2, 2, has_logprobs=True)
    assert writer.opening(1, text) == shared.encode([CompletionChoice(3, text, None, None)], None)


@given(token=TOKENS.filter(lambda token: token.result is None))
def test_the_event_of_a_token_is_its_record(token):
    parameters = GenerateParameters()
    record = stream_response(token, parameters, "a")
    assert format_stream_response(token, parameters, "a") == format_json(record)


@given(value=LOGPROBS)
def test_an_f32_is_written_with_its_own_digits(value):
    token = format_json(Token(7, "a", json_f32(value), special=False))
    assert token == f'{{"id":7,"text":"a","logprob":{format_f32(value)},"special":false}}'
    read = msgspec.json.decode(token)["logprob"]
    if value is None or not math.isfinite(value):
        assert read is None
    else:
        assert round_f32(read) == value


SERVER = CORE / "server"


def responses_by_hand(source):
    """Lines that write a JSON object of a response without a record: an object in an f-string, or
    a dict or bytes that are encoded at once.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if re.search(r'[{,]"\w+":', text):
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Dict):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            if name in {"encode", "format_json"}:
                found.append(node.lineno)
    return sorted(found)


def test_no_response_is_written_without_its_record():
    found = [
        f"{path.relative_to(CORE)}:{line}"
        for path in sorted(SERVER.rglob("*.py"))
        for line in responses_by_hand(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "def f(t):\n    return f'{{\"id\":{t}}}'\n",
        "body = b'{\"live\":true}'\n",
        "body = msgspec.json.encode({'live': True})\n",
        "body = format_json({'live': True})\n",
    ],
)
def test_a_response_that_is_written_by_hand_is_seen(source):
    assert responses_by_hand(source)


def structs_in(kind):
    """The record types that a type of an operation contains directly."""
    if isinstance(kind, tuple):
        return [struct for member in kind for struct in structs_in(member)]
    members = getattr(kind, "__args__", ())
    own = [kind] if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else []
    return own + [struct for member in members for struct in structs_in(member)]


# The package `text` writes this record in the process that tokenizes long texts.
WRITTEN_AS_TEXT = {SimpleToken}


def test_tokens_of_a_text_are_written_in_their_documented_form():
    spans = [TokenSpan(1, "a\n", 0, 2), TokenSpan(7, "é", 2, 4)]
    body = b"[" + b"".join(json_blocks(iter(spans))) + b"]"
    found = msgspec.json.decode(body, type=list[SimpleToken])
    assert [dataclasses.asdict(span) for span in spans] == json.loads(body)
    assert [msgspec.structs.asdict(token) for token in found] == json.loads(body)


def test_every_documented_response_is_a_record_that_its_package_writes():
    sources = {path: path.read_text(encoding="utf-8") for path in SERVER.rglob("*.py")}
    responses = {
        struct
        for operation in OPERATIONS
        for struct in structs_in((operation.response, operation.streamed, operation.error))
    }
    assert len(responses) > 25
    assert responses >= WRITTEN_AS_TEXT
    for struct in responses - WRITTEN_AS_TEXT:
        package = struct.__module__.split(".")[2]
        assert package != "openapi"
        uses = re.compile(rf"\b{struct.__name__}\b(?!\.)")
        assert any(
            uses.search(source)
            for path, source in sources.items()
            if path.relative_to(SERVER).parts[0] != "openapi"
            and path.name not in {"response_schemas.py", "responses_api_output.py"}
        ), struct
