"""Every native response of a running server matches TGI's schema."""

import itertools

import httpx
import msgspec
import pytest

from tests.compat import native_shapes as shapes
from tests.stream_checks import events, native_events

PROMPT = "The quick brown fox"
SAMPLED = {"do_sample": True, "seed": 3}
CASES = [
    {"max_new_tokens": 3, **dict(zip(names, [True] * len(names), strict=True)), **sampling}
    for count in range(4)
    for names in itertools.combinations(
        ("details", "decoder_input_details", "return_full_text"), count
    )
    for sampling in ({}, SAMPLED)
] + [
    {"max_new_tokens": 3, "details": True, "top_n_tokens": 2},
    {"max_new_tokens": 3, "details": True, "top_n_tokens": 2, "do_sample": True, "best_of": 2},
    {"max_new_tokens": 3, "details": True, "do_sample": True, "best_of": 2},
    {"max_new_tokens": 3, "details": True, "truncate": 2},
    {"max_new_tokens": 20, "details": True, "stop": ["quick"]},
    {"details": True, "stop": ["fox", "nothing"], "max_new_tokens": 30},
]
INVALID = [
    {"temperature": 0},
    {"top_p": 1.0},
    {"top_k": 0},
    {"typical_p": 0},
    {"repetition_penalty": 0},
    {"frequency_penalty": 3},
    {"max_new_tokens": 0},
    {"max_new_tokens": 100_000},
    {"stop": list("abcde")},
    {"best_of": 3},
    {"best_of": 2},
    {"top_n_tokens": 6},
    {"truncate": 0},
    {"seed": 1, "best_of": 2, "do_sample": True},
    {"grammar": {"type": "json", "value": {}}},
    {"adapter_id": "a"},
]


@pytest.fixture(scope="module")
def client(live_server):
    with httpx.Client(base_url=live_server.url) as client:
        yield client


def post(client, path, **body):
    return client.post(path, json=body)


@pytest.mark.parametrize("parameters", CASES, ids=str)
def test_responses(client, parameters):
    response = shapes.check(
        post(client, "/generate", inputs=PROMPT, parameters=parameters).content,
        shapes.GenerateResponse,
    )
    has_details = parameters.get("details") or parameters.get("decoder_input_details")
    assert (response.details is not msgspec.UNSET) == bool(has_details)
    if has_details:
        assert (response.details.seed is None) == (not parameters.get("do_sample"))
        assert (response.details.top_tokens is not msgspec.UNSET) == ("top_n_tokens" in parameters)
        assert (response.details.best_of_sequences is not msgspec.UNSET) == (
            "best_of" in parameters
        )
    [wrapped] = shapes.check(
        post(client, "/", inputs=PROMPT, parameters=parameters).content,
        list[shapes.GenerateResponse],
    )
    assert wrapped.generated_text


@pytest.mark.parametrize(
    "parameters",
    [case for case in CASES if "best_of" not in case and "decoder_input_details" not in case],
    ids=str,
)
def test_streams(client, parameters):
    text = post(client, "/generate_stream", inputs=PROMPT, parameters=parameters).text
    native_events(text)
    *others, last = [shapes.check(data.encode(), shapes.StreamEvent) for _, data in events(text)]
    assert all(event.generated_text is None and event.details is None for event in others)
    assert (last.details is not None) == bool(parameters.get("details"))
    assert text == post(
        client, "/", inputs=PROMPT, parameters={"return_full_text": False} | parameters, stream=True
    ).text or ("do_sample" in parameters)


@pytest.mark.parametrize("parameters", INVALID, ids=str)
def test_errors(client, parameters):
    response = post(client, "/generate", inputs=PROMPT, parameters=parameters)
    error = shapes.check(response.content, shapes.Error)
    assert (response.status_code, error.error_type) == (422, "validation")
    [streamed] = native_events(
        post(client, "/generate_stream", inputs=PROMPT, parameters=parameters).text
    )
    assert streamed.keys() == {"error", "error_type"}
    if "best_of" not in parameters:
        assert streamed["error"] == error.error


def test_information(client):
    shapes.check(client.get("/info").content, shapes.Info)
    shapes.check(client.get("/v1/models").content, shapes.Models)
    shapes.check(post(client, "/tokenize", inputs="héllo").content, list[shapes.SimpleToken])
    shapes.check(
        post(client, "/chat_tokenize", messages=[{"role": "user", "content": "a"}]).content,
        shapes.ChatTokenize,
    )
    shapes.check(
        post(
            client, "/vertex", instances=[{"inputs": "a", "parameters": {"max_new_tokens": 2}}]
        ).content,
        shapes.Predictions,
    )


def test_the_schemas_reject_other_keys_and_another_order():
    with pytest.raises(msgspec.ValidationError):
        shapes.check(b'{"generated_text":"a","more":1}', shapes.GenerateResponse)
    with pytest.raises(msgspec.ValidationError):
        shapes.check(b'{"error":"a"}', shapes.Error)
    with pytest.raises(AssertionError):
        shapes.check(b'{"error_type":"b","error":"a"}', shapes.Error)
