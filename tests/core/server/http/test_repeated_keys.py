"""Repeated keys in a request body are found exactly, without a second parse of ordinary bodies."""

import json
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.work_counter import calls_of
from tgi.server.anthropic.schemas import CountTokensRequest, MessagesRequest
from tgi.server.http import json_reader
from tgi.server.http.json_reader import RejectionError, has_repeated_field, read_json
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.platforms.schemas import InferRequest, VertexGenerateInstance, VertexRequest

USAGE = b'"include_usage":true'
BLOCK = b'{"type":"text","text":"a","text":"b"}'


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


TEXTS = [
    "",
    "a",
    "\u00e9\n",
    '"role":',
    '\\"role\\":',
    'role":',
    '{"content": "x"}',
    "\\",
    '"',
    "\\u0061",
]
KEYS = ["role", "content", "name", "type", "text", "inputs", "seed", "messages", "a b", *TEXTS]


class Bodies:
    """Random bodies: most fields once, some twice, other keys between them, and every spelling."""

    def __init__(self, rng):
        self._rng = rng
        self._space = rng.choice(["", "", " ", "\n\t"])

    def chat(self):
        """A body of the route of chats."""
        messages = [self._message() for _ in range(self._rng.randrange(4))]
        fields = {
            "model": self._text(),
            "stream": self._rng.choice(["false", "true"]),
            "tools": self._array([self._value() for _ in range(self._rng.randrange(3))]),
        }
        return self._record(fields, {"messages": self._array(messages)})

    def prompt(self):
        """A body of the native routes."""
        grammar = self._record({}, {"type": '"json_schema"', "value": self._value()})
        fields = {
            "seed": str(self._rng.randrange(9)),
            "do_sample": "false",
            "stop": self._array([self._text() for _ in range(self._rng.randrange(3))]),
        }
        parameters = self._record(fields | {"grammar": grammar}, {})
        return self._record({"parameters": parameters}, {"inputs": self._text()})

    def _message(self):
        content = self._rng.choice(["null", self._text(), self._value()])
        fields = {"content": content, "name": self._text(), "tool_calls": self._value()}
        return self._record(fields, {"role": '"user"'})

    def _record(self, optional, required):
        fields = [*required.items()]
        fields += [pair for pair in optional.items() if self._rng.random() < 0.6]
        fields += [(self._rng.choice(KEYS), self._value()) for _ in range(self._rng.randrange(2))]
        if fields and self._rng.random() < 0.15:
            fields.append(self._rng.choice(fields))
        self._rng.shuffle(fields)
        return self._object(fields)

    def _value(self, depth=2):
        kind = self._rng.randrange(5 if depth else 3)
        if kind == 3:
            return self._array([self._value(depth - 1) for _ in range(self._rng.randrange(3))])
        if kind == 4:
            keys = [self._rng.choice(KEYS) for _ in range(self._rng.randrange(4))]
            return self._object([(key, self._value(depth - 1)) for key in keys])
        return [self._text(), "null", "-1.5"][kind]

    def _object(self, pairs):
        colon = f"{self._space}:{self._space}"
        entries = [f"{self._spelled(key)}{colon}{value}" for key, value in pairs]
        return f"{{{self._space}{self._comma.join(entries)}{self._space}}}"

    def _array(self, values):
        return f"[{self._comma.join(values)}]"

    @property
    def _comma(self):
        return f"{self._space},{self._space}"

    def _text(self):
        return self._spelled(self._rng.choice(TEXTS))

    def _spelled(self, text):
        if text.isascii() and text.isalnum() and self._rng.random() < 0.02:
            return '"' + "".join(f"\\u{ord(letter):04X}" for letter in text) + '"'
        return json.dumps(text, ensure_ascii=self._rng.random() < 0.5)


@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**32), record=st.sampled_from([ChatRequest, GenerateRequest]))
def test_a_body_is_read_as_a_second_parse_for_repeated_keys_would_have_it_read(seed, record):
    bodies = Bodies(random.Random(seed))
    body = (bodies.chat() if record is ChatRequest else bodies.prompt()).encode()
    try:
        fast = msgspec.json.decode(body, type=record)
    except msgspec.MsgspecError:
        return
    expected = outcome(json_reader._read_slowly, body, record)
    if not has_repeated_key(body):
        assert expected == msgspec.json.encode(fast)
        assert not has_repeated_field(body, record)
    assert outcome(read_json, body, record) == expected


def test_the_random_bodies_contain_every_case():
    cases = Counter()
    for seed in range(1000):
        body = Bodies(random.Random(seed)).chat().encode()
        is_rejected = outcome(read_json, body, ChatRequest)[:1] == (422,)
        cases[has_repeated_key(body), is_rejected] += 1
    assert len(cases) == 4
    assert min(cases.values()) > 10


@pytest.mark.parametrize(
    "body",
    [
        rb'{"messages":[{"role":"user","\u0072ole":"system"}]}',
        rb'{"messages":[{"r\u006Fle":"user","\u0072ole":"system"}]}',
        b'{"messages":[{"role":"user","content":"a"},{"role":"a","content":"b","role":"c"}]}',
        b'{"messages":[{"role" :"user","content":"a", "role"\n:\t"user"}]}',
        b'{"messages":[{"role":"user","content":"a","content":null}]}',
        b'{"messages":[{"role":"user","content":null,"content":null}]}',
        b'{"messages":[{"role":"user"},{"role":"user","content":"a","content":"b"}]}',
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


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (CompletionRequest, b'{"prompt":"a","n":1,"prompt":"b"}'),
        (CompletionRequest, b'{"prompt":"a","stream_options":{%b,%b}}' % (USAGE, USAGE)),
        (ResponsesRequest, b'{"input":[{"role":"user","content":"a","role":"user"}]}'),
        (ResponsesRequest, b'{"input":"a","text":{"format":null,"format":null}}'),
        (MessagesRequest, b'{"max_tokens":1,"messages":[{"content":[%b],"role":"user"}]}' % BLOCK),
        (CountTokensRequest, b'{"messages":[],"system":[%b]}' % BLOCK),
        (InferRequest, b'{"id":"1","inputs":[],"outputs":[{"name":"a"},{"name":"a","name":"b"}]}'),
        (
            GenerateRequest,
            b'{"inputs":"a","parameters":{"grammar":{"type":"json","value":1,"type":"json"}}}',
        ),
        (VertexRequest, b'{"instances":[1],"instances":[2]}'),
        (VertexGenerateInstance, b'{"inputs":"a","parameters":{"seed":1,"seed":1}}'),
        (CompatGenerateRequest, b'{"inputs":"a","parameters":{},"parameters":{}}'),
    ],
)
def test_repeated_fields_of_every_record_are_rejected(record, body):
    msgspec.json.decode(body, type=record)
    with pytest.raises(RejectionError, match="duplicate field"):
        read_json(body, record)


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
    """The number of times that the values of a body are decoded."""
    scanner = "tgi.server.http.json_scanner.JsonScanner.__init__"
    return calls_of(work, {"msgspec._core.json_decode", "json.loads", scanner})


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaces"])
@pytest.mark.parametrize("case", ORDINARY)
def test_an_ordinary_body_is_parsed_once(case, separators):
    record, value = ORDINARY[case]
    body = json.dumps(value, separators=separators).encode()
    read_json(body, record)  # Fill the caches for this record.
    assert num_parses(lambda: read_json(body, record)) == 1


def test_an_indented_prompt_is_parsed_once():
    record, value = ORDINARY["a prompt with a schema"]
    body = json.dumps(value, indent=2).encode()
    assert num_parses(lambda: read_json(body, record)) == 1


def test_a_second_parse_is_counted():
    record, value = ORDINARY["a chat"]
    body = json.dumps(value, indent=2).encode()
    assert num_parses(lambda: read_json(body, record)) == 2
