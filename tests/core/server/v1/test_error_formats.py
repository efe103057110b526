"""Errors have the schema of the client's protocol, for every status and in streams."""

import json

import httpx
import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import events
from tgi.errors import UnhealthyError
from tgi.scheduler.records import SequenceOutput
from tgi.server.openapi.operations import OPERATIONS

MESSAGES = [{"role": "user", "content": "fox"}]
BODIES = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/completions": {"prompt": "fox", "max_tokens": 2},
    "/v1/responses": {"input": "fox", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
}
GENERATING = [path for path in BODIES if not path.endswith("count_tokens")]
NATIVE_BODIES = {
    "/": {"inputs": "fox", "parameters": {"max_new_tokens": 2}},
    "/generate": {"inputs": "fox", "parameters": {"max_new_tokens": 2}},
    "/invocations": {"inputs": "fox", "parameters": {"max_new_tokens": 2}},
}
# The statuses of Anthropic's API for those of TGI.
ANTHROPIC = {415: 400, 422: 400, 424: 500, 503: 529}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
CODES = {
    401: "invalid_api_key",
    404: "unknown_url",
    405: "method_not_supported",
    429: "rate_limit_exceeded",
}


class UnhealthyEngine(FakeEngine):
    """An engine that has crashed."""

    def submit(self, request, outputs):
        raise UnhealthyError


class FaultyEngine(FakeEngine):
    """An engine with a programming error."""

    def submit(self, request, outputs):
        raise KeyError("a fault of the server")


async def post(client, path, **changes):
    return await client.post(path, json=(BODIES | NATIVE_BODIES)[path] | changes)


async def bad_syntax(client, path):
    json_type = {"content-type": "application/json"}
    return await client.post(path, content=b"{", headers=json_type)


async def other_type(client, path):
    return await client.post(path, content=b"{}", headers={"content-type": "text/plain"})


CASES = {
    "no key": (401, {"api_key": "k"}, post),
    "unknown path": (
        404,
        {},
        lambda client, path: client.post(f"{path.rstrip('/')}/nothing", json={}),
    ),
    "wrong method": (405, {}, lambda client, path: client.put(path)),
    "too large": (413, {"payload_limit": 5}, post),
    "content type": (415, {}, other_type),
    "syntax": (400, {}, bad_syntax),
    "schema": (422, {}, lambda client, path: client.post(path, json={"stream": 5})),
    "no slot": (429, {"max_concurrent_requests": 0}, post),
}
FAILURES = {
    "generation": (424, FakeEngine([SequenceOutput(0, error="out of luck")])),
    "incomplete": (500, FakeEngine([SequenceOutput(0, [], "length")])),
    "unhealthy": (503, UnhealthyEngine()),
}


def check(response, path, status):
    """Check that the response has the schema of the protocol of the path."""
    assert response.headers["content-type"] == "application/json"
    parsed = response.json()
    if path.startswith("/v1/messages"):
        status = ANTHROPIC.get(status, status)
        assert (list(parsed), parsed["type"]) == (["type", "error"], "error")
        assert parsed["error"].keys() == {"type", "message"}
        assert parsed["error"]["type"] == ANTHROPIC_TYPES[status]
    else:
        assert list(parsed) == ["error", "error_type"]
        assert list(parsed["error"]) == ["message", "type", "param", "code"]
        kind = "invalid_request_error" if status < 424 else "server_error"
        kind = "rate_limit_error" if status == 429 else kind
        assert (parsed["error"]["type"], parsed["error"]["code"]) == (kind, CODES.get(status))
        assert parsed["error_type"]
    assert response.status_code == status
    assert len(parsed["error"]["message"]) > 5


def test_every_documented_route_is_tested():
    assert {o.path for o in OPERATIONS if o.path.startswith("/v1/") and o.body} == BODIES.keys()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", BODIES)
async def test_errors_have_the_shape_of_their_protocol(make_client, path, case):
    status, options, ask = CASES[case]
    async with make_client(**options) as client:
        check(await ask(client, path), path, status)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_a_wrong_key_has_the_words_that_litellm_recognizes(make_client, path, headers):
    async with make_client(api_key="k") as client:
        response = await client.post(path, json=BODIES[path], headers=headers)
    assert response.json()["error"]["message"].startswith("Incorrect API key provided")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("path", GENERATING)
async def test_failures_have_the_shape_of_their_protocol(make_client, path, case, stream):
    status, engine = FAILURES[case]
    async with make_client(engine) as client:
        response = await post(client, path, stream=stream)
    if not stream or status == 503:
        check(response, path, status)
        return
    assert response.status_code == 200
    found = [json.loads(data) for _, data in events(response.text) if data != "[DONE]"]
    if path == "/v1/responses":
        assert found[-1]["response"]["error"].keys() == {"code", "message"}
    else:
        check(
            httpx.Response(
                ANTHROPIC.get(status, status) if "messages" in path else status, json=found[-1]
            ),
            path,
            status,
        )


@pytest.mark.parametrize("path", GENERATING)
@pytest.mark.parametrize("options", [{}, {"max_concurrent_requests": 0}])
async def test_an_invalid_stream_is_rejected_before_its_first_event(make_client, path, options):
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    async with make_client(**options) as client:
        response = await post(client, path, stream=True, **{limit: 0})
    check(response, path, 429 if options else 422)


@pytest.mark.parametrize("path", [*GENERATING, *NATIVE_BODIES])
async def test_a_fault_of_the_server_has_the_shape_of_the_protocol(make_app, path):
    transport = httpx.ASGITransport(make_app(FaultyEngine()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        response = await post(client, path)
    assert "a fault" not in response.text
    if path in NATIVE_BODIES:
        assert response.json()["error_type"] == "internal"
        assert response.status_code == 500
    else:
        check(response, path, 500)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("path", NATIVE_BODIES)
async def test_errors_of_native_routes_are_those_of_tgi(make_client, path, case):
    status, options, ask = CASES[case]
    async with make_client(**options) as client:
        response = await ask(client, path)
    if path == "/" and case == "wrong method":
        assert response.headers["allow"] == "POST,GET,HEAD"
    assert response.status_code == status
    if status in (401, 404, 405):
        assert response.content == b""
    elif case in ("no slot",):
        assert response.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
    else:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "changes", "param"),
    [
        ("/v1/chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/chat/completions", {"max_completion_tokens": 0}, "max_completion_tokens"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 20}, "top_logprobs"),
        ("/v1/chat/completions", {"top_p": 1.5}, "top_p"),
        ("/v1/chat/completions", {"temperature": -1}, "temperature"),
        ("/v1/chat/completions", {"messages": 5}, "messages"),
        ("/v1/chat/completions", {"stop": list("abcde")}, "stop"),
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"logprobs": 20}, "logprobs"),
        ("/v1/completions", {"max_tokens": 0}, "max_tokens"),
        ("/v1/responses", {"max_output_tokens": 0}, "max_output_tokens"),
        ("/v1/responses", {"top_logprobs": 20}, "top_logprobs"),
        ("/v1/responses", {"top_p": -0.5}, "top_p"),
        ("/v1/messages", {"max_tokens": 0}, "max_tokens"),
        ("/v1/messages", {"stop_sequences": list("abcde")}, "stop_sequences"),
    ],
)
async def test_errors_use_the_names_of_the_protocol(make_client, path, changes, param):
    async with make_client() as client:
        response = await post(client, path, **changes)
    error = response.json()["error"]
    if not path.startswith("/v1/messages"):
        assert error["param"] == param
    assert param in error["message"]
    for native in ("max_new_tokens", "top_n_tokens", "inputs"):
        assert native not in error["message"]


async def test_a_range_in_an_error_contains_the_accepted_values(make_client):
    async with make_client() as client:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
            rejected = (await post(client, path, top_p=1.5)).json()["error"]["message"]
            assert rejected.endswith("`top_p` must be >= 0 and <= 1. Given: 1.5")
            for accepted in (0, 1e-60, 0.5, 0.99999999, 1):
                assert (await post(client, path, top_p=accepted)).status_code == 200


TOO_LONG = {
    "/v1/chat/completions": ("messages", "max_tokens"),
    "/v1/completions": ("prompt", "max_tokens"),
    "/v1/responses": ("input", "max_output_tokens"),
    "/v1/messages": ("messages", "max_tokens"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("count", [60, 200, 100_000])
@pytest.mark.parametrize("path", TOO_LONG)
async def test_a_prompt_that_is_too_long_is_recognized(make_client, path, count, stream):
    """The largest prompt is rejected before it is tokenized."""
    prompt, _ = TOO_LONG[path]
    text = "fox " * count
    content = [{"role": "user", "content": text}] if prompt == "messages" else text
    async with make_client() as client:
        response = await post(client, path, stream=stream, **{prompt: content})
    error = response.json()["error"]
    assert response.status_code == 400
    if path == "/v1/messages":
        assert error["type"] == "invalid_request_error"
        assert error["message"].startswith("prompt is too long: ")
        assert error["message"].endswith(" tokens > 48 maximum")
    else:
        assert error["code"] == "context_length_exceeded"
        assert error["message"].startswith("This model's maximum context length is 64 tokens")
        assert response.json()["error_type"] == "validation"


@pytest.mark.parametrize("path", TOO_LONG)
async def test_an_output_that_is_too_long_is_reported_with_the_clients_numbers(make_client, path):
    async with make_client() as client:
        response = await post(client, path, **{TOO_LONG[path][1]: 100_000})
    assert response.status_code == 400
    assert "100000" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/invocations", "/vertex"])
async def test_chats_on_native_routes_have_the_errors_of_tgi(make_client, path):
    chats = [
        ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"temperature": -1}, "`temperature` must be strictly positive"),
        ({"max_tokens": 100}, "`inputs` tokens + `max_new_tokens` must be <= 64"),
    ]
    async with make_client() as client:
        for fields, message in chats:
            chat = {"messages": MESSAGES} | fields
            body = chat if path == "/invocations" else {"instances": [chat]}
            response = await client.post(path, json=body)
            assert response.status_code == 422
            assert message in response.json()["error"]
        tokens = await client.post("/chat_tokenize", json={"messages": MESSAGES, "top_p": 1.5})
    assert tokens.status_code == 200


async def test_too_many_prompts_name_the_option(make_client):
    async with make_client() as client:
        response = await post(client, "/v1/completions", prompt=["a"] * 20)
    message = response.json()["error"]["message"]
    assert "`--max-client-batch-size`" in message
    assert "Given: 20" in message


@pytest.mark.parametrize("path", [*BODIES, "/v1/models"])
async def test_a_slash_at_the_end_does_not_matter(make_client, path):
    async with make_client(api_key="k") as client:
        client.headers["authorization"] = "Bearer k"
        if path == "/v1/models":
            assert (await client.get(f"{path}/")).json() == (await client.get(path)).json()
        else:
            response = await client.post(f"{path}/", json=BODIES[path])
            assert response.status_code == 200
            del client.headers["authorization"]
            assert (await client.post(f"{path}/", json=BODIES[path])).status_code == 401


async def test_the_served_model_can_be_retrieved(make_client):
    anthropic = {"anthropic-version": "2023-06-01"}
    async with make_client(model_id="org/tiny") as client:
        for headers in ({}, anthropic):
            [listed] = (await client.get("/v1/models", headers=headers)).json()["data"]
            for path in ("/v1/models/org/tiny", "/v1/models/org%2Ftiny", "/v1/models/org/tiny/"):
                assert (await client.get(path, headers=headers)).json() == listed
        unknown = await client.get("/v1/models/gpt-4")
        also_unknown = await client.get("/v1/models/claude", headers=anthropic)
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert "`org/tiny`" in unknown.json()["error"]["message"]
    assert also_unknown.json()["error"]["type"] == "not_found_error"
    assert (unknown.status_code, also_unknown.status_code) == (404, 404)


async def test_models_have_the_shape_of_the_clients_protocol(make_client):
    async with make_client() as client:
        openai = (await client.get("/v1/models")).json()
        anthropic = (await client.get("/v1/models", headers={"anthropic-version": "x"})).json()
    assert (openai["object"], openai["data"][0]["object"]) == ("list", "model")
    assert anthropic["data"][0]["type"] == "model"
    assert (anthropic["has_more"], anthropic["first_id"], anthropic["last_id"]) == (
        False,
        "tiny",
        "tiny",
    )


@pytest.mark.parametrize("path", [p for p in GENERATING if p != "/v1/messages"])
async def test_errors_about_headers_name_no_field(make_client, path):
    async with make_client() as client:
        response = await client.post(path, json=BODIES[path], headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert response.json()["error"]["param"] is None
