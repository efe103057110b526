"""Rejected bodies with TGI's error messages, and invalid JSON that TGI accepts."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.server.anthropic.schemas import MessagesRequest
from tgi.server.http.json_reader import (
    RejectionError,
    check_num_values,
    read_any_of,
    read_json,
)
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.platforms.schemas import InferRequest, VertexRequest

SYNTAX = "Failed to parse the request body as JSON: "
SHAPE = "Failed to deserialize the JSON body into the target type: "

REJECTED = {
    b"": (400, "EOF while parsing a value at line 1 column 0"),
    b"nul": (400, "EOF while parsing a value at line 1 column 3"),
    b'{"inputs" 1}': (400, "expected `:` at line 1 column 11"),
    b'{"inputs":"a",}': (400, "trailing comma at line 1 column 15"),
    b'{"inputs":tru}': (400, "inputs: expected ident at line 1 column 14"),
    b'\n{"inputs":\n @}': (400, "inputs: expected value at line 3 column 2"),
    b'{"inputs":"\xff"}': (400, "inputs: invalid unicode code point at line 1 column 12"),
    b'{"inputs":"a","z":[[1]': (400, "EOF while parsing a list at line 1 column 22"),
    b'{"inputs":"a","parameters":{"temperature":1e400}}': (
        400,
        "parameters.temperature: number out of range at line 1 column 47",
    ),
    b'{"inputs":"a","parameters":{"top_k":01}}': (
        400,
        "parameters.top_k: invalid number at line 1 column 38",
    ),
    b"{}": (422, "missing field `inputs` at line 1 column 2"),
    b"[]": (
        422,
        "invalid length 0, expected struct GenerateRequest with 2 elements at line 1 column 2",
    ),
    b"[1,": (422, "[0]: invalid type: integer `1`, expected a string at line 1 column 2"),
    b'{"inputs":{"a":1}}': (
        422,
        "inputs: invalid type: map, expected a string at line 1 column 10",
    ),
    b'{"inputs":"a","parameters":null}': (
        422,
        "parameters: invalid type: null, expected struct GenerateParameters at line 1 column 31",
    ),
    b'{"inputs":"a","parameters":{"max_new_tokens":-1}}': (
        422,
        "parameters.max_new_tokens: invalid value: integer `-1`, expected u32 at line 1 column 47",
    ),
    b'{"inputs":"a","parameters":{"max_new_tokens":1.0}}': (
        422,
        (
            "parameters.max_new_tokens: invalid type: floating point `1.0`, expected u32 at line 1"
            " column 48"
        ),
    ),
    b'{"inputs":"a","parameters":{"seed":18446744073709551616}}': (
        422,
        (
            "parameters.seed: invalid type: floating point `1.8446744073709552e19`, expected u64 at"
            " line 1 column 55"
        ),
    ),
    b'{"inputs":"a","parameters":{"grammar":{"type":"text","value":1}}}': (
        422,
        (
            "parameters.grammar.type: unknown variant `text`, expected one of `json`,"
            " `json_object`, `regex`, `json_schema` at line 1 column 52"
        ),
    ),
    b'{"inputs":"a","parameters":{"stop":["a",1]}}': (
        422,
        "parameters.stop[1]: invalid type: integer `1`, expected a string at line 1 column 41",
    ),
    b'{"inputs":"a","parameters":{"do_sample":"yes"}}': (
        422,
        'parameters.do_sample: invalid type: string "yes", expected a boolean at line 1 column 45',
    ),
    b'{"inputs":"a","parameters":{"grammar":{"type":"json"}}}': (
        422,
        "parameters.grammar: missing field `value` at line 1 column 53",
    ),
}


@pytest.mark.parametrize("body", REJECTED)
def test_rejections_contain_status_path_and_position(body):
    status, text = REJECTED[body]
    with pytest.raises(RejectionError) as caught:
        read_json(body, GenerateRequest)
    assert caught.value.status == status
    assert caught.value.text == (SYNTAX if status == 400 else SHAPE) + text


@pytest.mark.parametrize(
    ("record", "body", "text"),
    [
        (
            CompletionRequest,
            {"prompt": None},
            "prompt: data did not match any variant of untagged enum PromptDeserializer",
        ),
        (
            CompletionRequest,
            {"prompt": {}},
            "prompt: data did not match any variant of untagged enum PromptDeserializer",
        ),
        (
            CompletionRequest,
            {"logprobs": "a"},
            'logprobs: invalid type: string "a", expected u32 or a boolean',
        ),
        (
            ChatRequest,
            {"stop": 5},
            "stop: invalid type: integer `5`, expected a string or a sequence",
        ),
        (
            ChatRequest,
            {"logit_bias": True},
            "logit_bias: invalid type: boolean `true`, expected a map or a sequence",
        ),
        (
            MessagesRequest,
            {"system": {}},
            "system: invalid type: map, expected a string or a sequence",
        ),
    ],
)
def test_an_error_in_a_field_of_several_types_lists_them(record, body, text):
    with pytest.raises(RejectionError) as caught:
        read_json(json.dumps(body).encode(), record)
    assert caught.value.text.startswith(f"{SHAPE}{text} at line 1")


SMALLEST = {
    ChatRequest: {"messages": []},
    CompletionRequest: {"prompt": ""},
    GenerateRequest: {"inputs": ""},
    MessagesRequest: {"messages": [], "max_tokens": 1},
    ResponsesRequest: {"input": ""},
}
FIELDS = [(record, name) for record in SMALLEST for name in record.__struct_fields__]
VALUES = [None, True, -1, 2**65, 0.5, "x", [], [1], [None], [{}], {}, {"a": 1}, {"a": None}]


@pytest.mark.parametrize(("record", "name"), FIELDS)
def test_every_error_has_a_path_and_a_position(record, name):
    """The messages of msgspec have neither and contain names of Python's types."""
    for value in VALUES:
        try:
            read_json(json.dumps(SMALLEST[record] | {name: value}).encode(), record)
        except RejectionError as error:
            assert error.text.startswith(f"{SHAPE}{name}"), value
            assert " at line 1 column " in error.text, value


def test_a_seed_above_64_bits_is_rejected_and_the_maximum_is_accepted():
    body = '{{"inputs":"a","parameters":{{"seed":{}}}}}'
    assert read_json(body.format(2**64 - 1).encode(), GenerateRequest).parameters.seed == 2**64 - 1
    with pytest.raises(RejectionError, match="expected u64"):
        read_json(body.format(2**64).encode(), GenerateRequest)


def test_absent_parameters_enable_sampling_and_empty_ones_do_not():
    assert read_json(b'{"inputs":"a"}', GenerateRequest).parameters.do_sample
    assert not read_json(b'{"inputs":"a","parameters":{}}', GenerateRequest).parameters.do_sample


def test_bytes_after_the_value_are_ignored():
    assert read_json(b'{"inputs":"a"} and more', GenerateRequest).inputs == "a"


def test_an_array_fills_the_fields_in_order():
    request = read_json(b'["hi",[2,0.5]]', GenerateRequest)
    assert (request.inputs, request.parameters.best_of, request.parameters.temperature) == (
        "hi",
        2,
        0.5,
    )
    assert read_json(b'["hi",{},true]', CompatGenerateRequest).stream


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_an_unknown_field_may_be_nested_to_any_depth(depth):
    body = b'{"inputs":"a","other":' + b"[" * depth + b"]" * depth + b"}"
    assert read_json(body, GenerateRequest).inputs == "a"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(inputs=st.text(), other=JSON)
def test_the_slow_reader_returns_the_same_record_as_the_fast_one(inputs, other):
    body = json.dumps({"other": other, "inputs": inputs}).encode("utf-8", "surrogatepass")
    fast = read_json(body, GenerateRequest)
    assert read_json(body + b" }", GenerateRequest) == fast


@given(
    st.binary(max_size=40)
    | st.text(alphabet='{}[]":,\\u0123abe-+. tfn', max_size=40).map(str.encode)
)
def test_any_bytes_are_a_record_or_a_rejection(body):
    try:
        read_json(body, GenerateRequest)
    except RejectionError as error:
        assert error.status in (400, 422)


BODIES = [
    (
        GenerateRequest,
        {
            "inputs": "a",
            "parameters": {"grammar": {"type": "json", "value": {"a": [1]}}, "stop": ["x"]},
        },
    ),
    (
        ChatRequest,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "logit_bias": {"5": 1},
        },
    ),
    (
        ChatRequest,
        {
            "messages": [],
            "logit_bias": [1, 2.5],
            "stop": "x",
            "stream_options": {"include_usage": True},
        },
    ),
    (CompletionRequest, {"prompt": [[1, 2]], "logprobs": 2, "stop": ["x"], "temperature": 1}),
    (CompletionRequest, {"prompt": "a", "logprobs": True, "logit_bias": {}}),
    (
        ResponsesRequest,
        {"input": [{"role": "user", "content": "a"}], "text": {"format": {"type": "text"}}},
    ),
    (
        MessagesRequest,
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
            "max_tokens": 1,
        },
    ),
    (
        MessagesRequest,
        {
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 1,
            "system": "b",
            "top_k": 3,
        },
    ),
    (
        InferRequest,
        {
            "id": "1",
            "inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": [97]}],
            "outputs": [],
        },
    ),
    (VertexRequest, {"instances": [{"inputs": "a"}, 5]}),
]


@pytest.mark.parametrize(
    ("record", "body"), BODIES, ids=lambda value: getattr(value, "__name__", None)
)
def test_the_slow_reader_accepts_the_bodies_of_the_fast_one(record, body):
    text = json.dumps(body).encode()
    fast, slow = read_json(text, record), read_json(text + b" x", record)
    assert msgspec.json.encode(fast) == msgspec.json.encode(slow)
    assert isinstance(read_any_of(text + b" x", [GenerateRequest, record], "Any"), record)


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_a_field_of_any_type_that_is_nested_too_deeply_is_rejected(depth):
    nested = b"[" * depth + b"]" * depth
    with pytest.raises(RejectionError, match="recursion limit exceeded") as caught:
        read_json(b'{"messages":[{"role":"user","content":' + nested + b"}]}", ChatRequest)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "record", "place"),
    [
        (b'{"inputs":"a","inputs":"b"}', GenerateRequest, "duplicate field `inputs`"),
        (
            b'{"inputs":"a","parameters":{"seed":1,"seed":1}}',
            GenerateRequest,
            "parameters: duplicate field `seed`",
        ),
        (
            b'{"messages":[{"role":"user","role":"user"}]}',
            ChatRequest,
            "messages[0]: duplicate field `role`",
        ),
    ],
)
def test_a_duplicate_field_is_rejected(body, record, place):
    with pytest.raises(RejectionError) as rejected:
        read_json(body, record)
    assert rejected.value.status == 422
    assert f"{place} at line 1" in rejected.value.text


def test_unknown_keys_may_be_duplicated():
    assert read_json(b'{"inputs":"a","x":1,"x":{"inputs":2}}', GenerateRequest).inputs == "a"


MAX_VALUES = 1 << 17
# Values, with the number of strings, lists and objects in them.
COUNTED = {
    "texts": (b'"a"', 1),
    "escaped quotes": (rb'"\"{["', 1),
    "escaped backslashes": (rb'"a\\"', 1),
    "objects": (b'{"k":0}', 2),
    "lists": (b"[]", 1),
    "numbers": (b"1.5", 0),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_the_number_of_values_is_limited(kind):
    value, num_values = COUNTED[kind]
    count = (MAX_VALUES - 3) // max(1, num_values)  # 3 for the object, the key and the list
    body = b'{"x":[' + b",".join([value] * count) + b"]}"
    check_num_values(body)
    if num_values:
        with pytest.raises(RejectionError, match="more than 131072 strings, lists") as raised:
            check_num_values(body.replace(b"]}", b"," + b'"",' * num_values + b'""]}'))
        assert raised.value.status == 413


def test_brackets_in_a_text_are_not_counted():
    check_num_values(b'{"inputs":"' + rb"{[\"" * 400_000 + b'"}')
