"""Constraints over HTTP: the guidance in the request for the engine, and the errors."""

import json

import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.text import Tokenizer
from tgi.text.output import ReasoningFormat
from tgi.text.output.formats import OutputFormats

FEATURES = ("mask", "logprobs", "prompt_logprobs")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OPENAI = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
NATIVE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
BODIES = {
    NATIVE: {"inputs": "hi"},
    COMPLETIONS: {"prompt": "hi", "max_tokens": 4},
    CHAT: {"messages": HI, "max_tokens": 4},
    RESPONSES: {"input": "hi", "max_output_tokens": 4},
    MESSAGES: {"messages": HI, "max_tokens": 4},
}


def body_of(path, fields):
    if path == NATIVE:
        return BODIES[NATIVE] | {"parameters": {"max_new_tokens": 4, **fields}}
    return BODIES[path] | fields


async def post(make_client, path, fields, engine=None, **changes):
    engine = engine or FakeEngine(features=FEATURES)
    async with make_client(engine, **changes) as client:
        return await client.post(path, json=body_of(path, fields)), engine.requests


def message_of(response):
    error = response.json()["error"]
    return error if isinstance(error, str) else error["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (NATIVE, {"grammar": {"type": "json", "value": SCHEMA}}),
        (NATIVE, {"grammar": {"type": "json", "value": json.dumps(SCHEMA)}}),
        (NATIVE, {"grammar": {"type": "json_object", "value": SCHEMA}}),
        (NATIVE, {"grammar": {"type": "json_schema", "value": {"schema": SCHEMA}}}),
        (CHAT, {"response_format": {"type": "json", "value": SCHEMA}}),
        (CHAT, {"response_format": OPENAI}),
        (COMPLETIONS, {"response_format": OPENAI}),
        (CHAT, {"structured_outputs": {"json": SCHEMA}}),
        (CHAT, {"guided_json": json.dumps(SCHEMA)}),
        (COMPLETIONS, {"guided_json": SCHEMA}),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}}),
        (MESSAGES, {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    ],
)
async def test_a_schema_has_the_same_grammar_in_every_form(make_client, path, fields):
    response, requests = await post(make_client, path, fields)
    assert response.status_code == 200, response.text
    async with make_client(engine := FakeEngine(features=FEATURES)) as client:
        await client.post(COMPLETIONS, json=BODIES[COMPLETIONS] | {"guided_json": SCHEMA})
    assert requests[0].guidance == engine.requests[0].guidance
    assert "%json" in requests[0].guidance.grammar
    assert requests[0].guidance.reasoning is None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (NATIVE, {"grammar": {"type": "regex", "value": "[ab]+"}}),
        (CHAT, {"response_format": {"type": "regex", "value": "[ab]+"}}),
        (CHAT, {"response_format": {"type": "json_object"}}),
        (COMPLETIONS, {"guided_regex": "[ab]+"}),
        (COMPLETIONS, {"guided_choice": ["yes", "no"]}),
        (COMPLETIONS, {"guided_grammar": 'start: "a" | "b"'}),
        (COMPLETIONS, {"guided_grammar": 'root ::= "a" | "b"'}),
        (COMPLETIONS, {"structured_outputs": {"json_object": True}}),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}),
    ],
)
async def test_other_constraints_reach_the_engine(make_client, path, fields):
    response, requests = await post(make_client, path, fields)
    assert response.status_code == 200, response.text
    assert requests[0].guidance.grammar


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (NATIVE, {"grammar": None}),
        (CHAT, {"response_format": {"type": "text"}}),
        (CHAT, {"response_format": None, "guided_json": None, "structured_outputs": {}}),
        (RESPONSES, {"text": {"format": {"type": "text"}}}),
        (MESSAGES, {"output_config": {}}),
    ],
)
async def test_a_request_without_constraint_has_no_guidance(make_client, path, fields):
    engine = FakeEngine(features=FEATURES)
    response, [request] = await post(make_client, path, fields, engine)
    assert response.status_code == 200, response.text
    assert (request.guidance, engine.vocabularies) == (None, [])


INVALID = "Input validation error: "
NOT_VALID = INVALID + "grammar is not valid: "
ERRORS = [
    (NATIVE, {"grammar": {"type": "json", "value": "{"}}, NOT_VALID + "EOF while parsing an obj"),
    (NATIVE, {"grammar": {"type": "json", "value": 1}}, INVALID + "grammar is not supported"),
    (
        NATIVE,
        {"grammar": {"type": "json", "value": {"type": "foo"}}},
        NOT_VALID + "\"foo\" is not valid under any of the schemas listed in the 'anyOf' keyword",
    ),
    (
        NATIVE,
        {"grammar": {"type": "json", "value": {"type": "object"}}},
        NOT_VALID + "Grammar must have a 'properties' field",
    ),
    (NATIVE, {"grammar": {"type": "regex", "value": "(a"}}, NOT_VALID),
    (CHAT, {"response_format": {"type": "json", "value": {"required": "a"}}}, NOT_VALID + '"a" is'),
    (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}},
        NOT_VALID + "1 is not valid under any",
    ),
    (CHAT, {"guided_json": "{"}, INVALID + "`guided_json` is not valid: EOF while parsing"),
    (CHAT, {"guided_grammar": "start: x"}, INVALID + "`guided_grammar` is not valid: "),
    (
        COMPLETIONS,
        {"guided_json": {"not": {}}},
        INVALID + "`guided_json` is not valid: ",
    ),
    (
        COMPLETIONS,
        {"guided_regex": "a", "structured_outputs": {"choice": ["a"]}},
        INVALID + "only one constraint on the output is possible. Given: `guided_regex`,"
        " `structured_outputs.choice`",
    ),
    (
        CHAT,
        {"guided_regex": "a", "response_format": {"type": "json", "value": SCHEMA}},
        INVALID
        + "only one constraint on the output is possible. Given: `response_format`, `guided",
    ),
    (CHAT, {"response_format": {"type": "xml"}}, INVALID + "`response_format.type` must be one of"),
    (CHAT, {"response_format": "json"}, INVALID + "`response_format` must be an object"),
    (
        RESPONSES,
        {"text": {"format": {"type": "regex"}}},
        INVALID
        + "`text.format.type` must be one of text, json_object, json_schema. Given: `regex`",
    ),
    (MESSAGES, {"output_format": {"type": "x"}}, INVALID + "`output_format.type` must be one of"),
]


@pytest.mark.parametrize(("path", "fields", "message"), ERRORS)
async def test_an_invalid_constraint_is_rejected(make_client, path, fields, message):
    response, requests = await post(make_client, path, fields)
    assert response.status_code == (400 if path == MESSAGES else 422)
    assert message_of(response).startswith(message)
    assert requests == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_an_invalid_constraint_of_a_stream_is_rejected_with_its_status(make_client, path):
    response, _ = await post(make_client, path, {"guided_regex": "(a", "stream": True})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "guided_regex"


async def test_a_stream_of_tgi_contains_the_error(make_client):
    async with make_client(FakeEngine(features=FEATURES)) as client:
        body = body_of(NATIVE, {"grammar": {"type": "json", "value": {}}})
        response = await client.post("/generate_stream", json=body)
    assert response.status_code == 200
    error = json.loads(response.text.removeprefix("data:"))
    assert error["error"] == NOT_VALID + "Grammar must have a 'properties' field"


async def test_the_length_is_checked_before_the_grammar(make_client):
    fields = {"grammar": {"type": "json", "value": {}}, "max_new_tokens": 1000}
    response, _ = await post(make_client, NATIVE, fields)
    assert "`max_new_tokens` must be <= 64" in message_of(response)


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (NATIVE, {"grammar": {"type": "json", "value": SCHEMA}}, "grammar"),
        (CHAT, {"response_format": OPENAI}, "response_format"),
        (CHAT, {"guided_choice": ["a"]}, "guided_choice"),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}, "text.format"),
    ],
)
async def test_a_backend_without_masks_is_named(make_client, path, fields, name):
    response, _ = await post(make_client, path, fields, FakeEngine())
    text = f"`{name}` is not supported by the backend `fake`: leave it out"
    assert (response.status_code, message_of(response)) == (422, INVALID + text)


@pytest.mark.parametrize("path", [NATIVE, CHAT])
async def test_grammars_can_be_disabled(make_client, path):
    value = {"type": "json", "value": SCHEMA}
    fields = {"grammar": value} if path == NATIVE else {"response_format": value}
    response, _ = await post(make_client, path, fields, disable_grammar_support=True)
    text = INVALID + "grammar is not supported"
    assert (response.status_code, message_of(response)) == (422, text)


async def test_the_sequences_of_a_request_share_their_guidance(make_client):
    fields = {"response_format": OPENAI, "n": 2}
    _, requests = await post(make_client, CHAT, fields)
    assert len(requests) == 2
    assert requests[0].guidance is requests[1].guidance


async def test_the_vocabulary_is_sent_before_the_first_request_only(make_client):
    engine = FakeEngine(features=FEATURES)
    submit, known = engine.submit, []
    engine.submit = lambda *fields: known.append(len(engine.vocabularies)) or submit(*fields)
    async with make_client(engine) as client:
        for fields in ({}, {"guided_regex": "a"}, {"guided_regex": "b"}):
            await client.post(COMPLETIONS, json=BODIES[COMPLETIONS] | fields)
    assert known == [0, 1, 1]
    assert engine.vocabularies[0].vocab_size == engine.agreement.vocab_size


async def test_a_tokenizer_that_changes_texts_is_reported(make_client, tokenizer, tmp_path):
    fields = json.loads(tokenizer.backend.to_str())
    fields["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    changed = Tokenizer.load(tmp_path)
    response, _ = await post(make_client, CHAT, {"guided_regex": "a"}, tokenizer=changed)
    assert response.status_code == 422
    text = "`guided_regex` is not supported with the tokenizer of this model: "
    assert message_of(response).startswith(INVALID + text)


async def test_the_grammar_begins_after_the_reasoning(make_client, make_template):
    formats = OutputFormats(None, ReasoningFormat("think"))
    _, [request] = await post(
        make_client,
        CHAT,
        {"response_format": OPENAI, "thinking_token_budget": 3},
        chat_template=make_template("{{ messages[0].content }}<think>\n"),
        output_formats=formats,
    )
    reasoning = request.guidance.reasoning
    assert (reasoning.start, reasoning.end) == ("<think>", "</think>")
    assert (reasoning.is_open, reasoning.max_tokens) == (True, 3)
    assert "%json" in request.guidance.grammar


async def test_rejections_are_counted(make_client):
    async with make_client(FakeEngine(features=FEATURES)) as client:
        for pattern in ("(a", "a", "(a"):
            body = BODIES[COMPLETIONS] | {"guided_regex": pattern}
            await client.post(COMPLETIONS, json=body)
        metrics = (await client.get("/metrics")).text
    assert "\ntgi_grammar_rejection 2\n" in metrics


CONSTRAINTS = {
    "grammar": {"type": "regex", "value": "[ab]"},
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "[ab]"},
    "guided_json": SCHEMA,
    "guided_regex": "[ab]",
    "guided_choice": ["a", "b"],
    "guided_grammar": 'start: "a"',
}
INSTEAD = {
    COMPLETIONS: "response_format",
    CHAT: "response_format",
    RESPONSES: "text.format",
    MESSAGES: "output_config.format",
}


@pytest.mark.parametrize("field", CONSTRAINTS)
@pytest.mark.parametrize("path", INSTEAD)
async def test_no_field_with_a_constraint_is_ignored(make_client, path, field):
    response, requests = await post(make_client, path, {field: CONSTRAINTS[field]})
    if response.status_code == 200:
        assert requests
        assert all(request.guidance is not None for request in requests)
    else:
        assert response.status_code == (400 if path == MESSAGES else 422)
        message = f"`{field}` is not supported by this route: use `{INSTEAD[path]}`"
        assert message_of(response) == f"Input validation error: {message}"
    response, _ = await post(make_client, path, {field: None})
    assert response.status_code == 200


F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
INVALID_SCHEMAS = [
    *({"properties": {"a": {"enum": []}}}, {"not": {}}, {"type": "x"}),
    {"properties": {"a": {"$ref": "http://x"}}},
]
INVALID_FIELDS = [
    *({"guided_json": schema} for schema in INVALID_SCHEMAS),
    *({"response_format": {"type": "json", "value": schema}} for schema in INVALID_SCHEMAS),
    *({"structured_outputs": {"json": schema}} for schema in INVALID_SCHEMAS),
    {"guided_regex": "(?=`messages`)"},
    {"guided_choice": [""]},
    {"guided_grammar": "start: x"},
    {"chat_template_kwargs": []},
    {"chat_template_kwargs": {"messages": []}},
    {"tools": [F, F]},
    {"tools": [{"type": "function", "function": {"name": "a b"}}]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
]


@pytest.mark.parametrize("fields", INVALID_FIELDS)
async def test_the_error_names_the_invalid_field(make_client, fields):
    response, _ = await post(make_client, CHAT, fields)
    assert response.status_code == 422
    [field] = fields
    assert response.json()["error"]["param"].startswith(field), response.text
