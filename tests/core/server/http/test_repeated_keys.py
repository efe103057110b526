"""Repeated keys in a request body are found exactly, without a second parse of ordinary bodies."""

import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.work_counter import calls_of
from tgi.server.anthropic.schemas import CountTokensRequest, MessagesRequest
from tgi.server.http import json_reader
from tgi.server.http.json_reader import RejectionError, read_json
from tgi.server.http.repeated_keys import MAX_NAME_LENGTH, field_names, has_repeated_field
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.platforms.schemas import InferRequest, VertexGenerateInstance, VertexRequest

RECORDS = [
    GenerateRequest,
    CompatGenerateRequest,
    CompletionRequest,
    ChatRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    InferRequest,
    VertexRequest,
    VertexGenerateInstance,
]


def has_repeated_key(body):
    """The reference implementation: a second parse that checks the keys of every object."""
    objects = []
    json.loads(body, object_pairs_hook=objects.append)
    return any(len(dict(pairs)) < len(pairs) for pairs in objects)


def outcome(read, *arguments):
    """The record that `read` returns, as JSON, or the rejection."""
    try:
        return msgspec.json.encode(read(*arguments))
    except RejectionError as rejection:
        return rejection.status, rejection.text


class Pairs(list):
    """A JSON object as a list of pairs (key, value), so that a key can be repeated."""


TEXTS = st.text(alphabet='a"\\:{}[], \n\u00e9role', max_size=12) | st.sampled_from(
    ['"role":', '\\"role\\":', 'role":', "role", '{"content": "x"}', "\\", '"', "\\u0061"]
)
KEYS = (
    st.sampled_from(
        [
            "role",
            "content",
            "name",
            "type",
            "text",
            "inputs",
            "parameters",
            "messages",
            "model",
            "a b",
        ]
    )
    | TEXTS
)


def objects(values):
    return st.lists(st.tuples(KEYS, values), max_size=4).map(Pairs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | objects(inner),
    max_leaves=6,
)


@st.composite
def json_texts(draw, value):
    """`value` as JSON, with spaces and escape sequences in random places."""
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    colon, comma = f"{space}:{space}", f"{space},{space}"

    def text(item):
        if not isinstance(item, str):
            return json.dumps(item)
        spelling = json.dumps(item, ensure_ascii=draw(st.booleans()))
        if item.isalnum() and draw(st.sampled_from([False] * 9 + [True])):
            spelling = '"' + "".join(f"\\u{ord(letter):04X}" for letter in item) + '"'
        return spelling

    def write(item):
        if isinstance(item, Pairs):
            inner = comma.join(f"{text(key)}{colon}{write(entry)}" for key, entry in item)
            return f"{{{space}{inner}{space}}}"
        if isinstance(item, list):
            return f"[{comma.join(map(write, item))}]"
        return text(item)

    return write(value).encode()


def mostly(fields, values):
    """Objects with `fields`, most of them once, and other keys between them."""
    entry = st.sampled_from(sorted(fields)).flatmap(
        lambda name: st.tuples(st.just(name), fields[name])
    )
    others = st.tuples(KEYS, values)
    return (
        st.lists(entry | others, max_size=5, unique_by=lambda pair: pair[0])
        .flatmap(
            lambda pairs: st.sampled_from([pairs, pairs, pairs + pairs[:1], pairs[1:] + pairs])
        )
        .map(Pairs)
    )


MESSAGES = st.lists(
    mostly(
        {
            "role": st.sampled_from(["user", "assistant"]),
            "content": st.none() | TEXTS | JSON,
            "name": st.none() | TEXTS,
            "tool_calls": JSON,
        },
        JSON,
    ).map(lambda pairs: Pairs([("role", "user"), *pairs]) if pairs else Pairs([("role", "user")])),
    max_size=3,
)
CHATS = mostly({"model": TEXTS, "stream": st.booleans(), "tools": st.lists(JSON)}, JSON).flatmap(
    lambda pairs: MESSAGES.map(lambda messages: Pairs([*pairs, ("messages", messages)]))
)
PARAMETERS = mostly(
    {"seed": st.integers(0, 9), "do_sample": st.booleans(), "stop": st.lists(TEXTS, max_size=2)},
    JSON,
).flatmap(
    lambda pairs: JSON.map(
        lambda value: Pairs(
            [*pairs, ("grammar", Pairs([("type", "json_schema"), ("value", value)]))]
        )
    )
)
PROMPTS = mostly({"inputs": TEXTS, "parameters": PARAMETERS}, JSON).map(
    lambda pairs: pairs if "inputs" in dict(pairs) else Pairs([*pairs, ("inputs", "x")])
)


@settings(max_examples=400)
@given(data=st.data(), kind=st.sampled_from(["chat", "prompt"]))
def test_a_second_parse_for_repeated_keys_has_the_same_result(data, kind):
    record, values = {
        "chat": (ChatRequest, CHATS),
        "prompt": (GenerateRequest, PROMPTS),
    }[kind]
    body = data.draw(json_texts(data.draw(values)))
    try:
        fast = msgspec.json.decode(body, type=record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    expected = outcome(json_reader._read_slowly, body, record)
    if not has_repeated_key(body):
        assert expected == msgspec.json.encode(fast)
        assert not has_repeated_field(body, fast, record)
    assert outcome(read_json, body, record) == expected


@given(body=JSON.flatmap(json_texts))
def test_no_repeated_key_is_reported_if_there_is_none(body):
    if not has_repeated_key(body):
        body = b'{"inputs":"a","other":' + body + b',"parameters":{"seed":1}}'
        value = msgspec.json.decode(body, type=GenerateRequest)
        assert not has_repeated_field(body, value, GenerateRequest)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"messages":[{"role":"user","\u0072ole":"system"}]}',
        rb'{"messages":[{"r\u006Fle":"user","\u0072ole":"system"}]}',
        b'{"messages":[{"role":"user","content":"a"},{"role":"a","content":"b","role":"c"}]}',
        b'{"messages":[{"role" :"user","content":"a", "role"\n:\t"user"}]}',
        b'{"messages":[{"role":"user","content":"a","content":null}]}',
        b'{"messages":[{"role":"user","content":null,"content":null}]}',
        b'{"messages":[{"role":"user","content":{"role":1},"role":"user"}]}',
        b'{"messages":[{"role":"user"}],"stream":false,"stream":false}',
        b'{"messages":[{"role":"\\"","role":"user"}]}',
        b'{"messages":[{"role":"\\\\","role":"user"}]}',
        b'{"messages":[{"role":"user"}],"messages":[]}',
    ],
)
def test_a_field_that_occurs_twice_is_rejected(body):
    assert has_repeated_key(body)
    with pytest.raises(RejectionError, match="duplicate field") as rejected:
        read_json(body, ChatRequest)
    assert rejected.value.status == 422


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_pattern_of_keys_covers_every_field_name(record):
    names = field_names(record)
    assert names
    for name in names:
        assert re.fullmatch(rb"[a-zA-Z0-9_]+", name)
        assert len(name) <= MAX_NAME_LENGTH


ORDINARY = {
    "a prompt": (GenerateRequest, {"inputs": 'say "role": "x"', "parameters": {"seed": 1}}),
    "a prompt with a schema": (
        GenerateRequest,
        {
            "inputs": "a",
            "parameters": {
                "grammar": {
                    "type": "json",
                    "value": {"properties": {"type": {"type": "a"}, "value": {"type": "b"}}},
                }
            },
        },
    ),
    "a chat": (
        ChatRequest,
        {
            "model": "tgi",
            "messages": [{"role": "user", "content": f'{{"role": {n}}}'} for n in range(9)],
            "stream": False,
        },
    ),
    "a chat in parts, with tools": (
        ChatRequest,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 3}] * 3
            + [{"role": "assistant", "tool_calls": [{"function": {"name": "b"}}]}],
            "tools": [{"type": "function", "function": {"name": n}} for n in "abc"],
        },
    ),
    "messages of Anthropic's API": (
        MessagesRequest,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}] * 2,
            "max_tokens": 1,
        },
    ),
}


def num_parses(work):
    scanner = "tgi.server.http.json_scanner.JsonScanner.__init__"
    return calls_of(work, {"msgspec._core.json_decode", "json.loads", scanner})


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("case", ORDINARY)
def test_an_ordinary_body_is_parsed_once(case, indent):
    record, value = ORDINARY[case]
    body = json.dumps(value, indent=indent).encode()
    read_json(body, record)  # Fill the caches for this record.
    assert num_parses(lambda: read_json(body, record)) == 1


def test_a_second_parse_is_counted():
    body = b'{"inputs":"a","x":{"inputs":1},"parameters":{}}'
    assert read_json(body, GenerateRequest).inputs == "a"
    assert num_parses(lambda: read_json(body, GenerateRequest)) == 2
