"""`cache_salt` on every generation route: it reaches the engine, and its length has a limit."""

import pytest

from tests.core.server.fake_engine import FakeEngine

MESSAGES = [{"role": "user", "content": "hello"}]
KSERVE = "/v2/models/m/versions/1/infer"
TENSOR = {"name": "x", "shape": [1], "datatype": "BYTES", "data": list(b"hello")}

BODIES = {
    "/": {"inputs": "hello", "parameters": {}},
    "/generate": {"inputs": "hello", "parameters": {}},
    "/generate_stream": {"inputs": "hello", "parameters": {}},
    "/invocations": {"inputs": "hello", "parameters": {}},
    "/vertex": {"instances": [{"inputs": "hello", "parameters": {}}]},
    KSERVE: {"id": "1", "inputs": [TENSOR], "outputs": [{"name": "y"}], "parameters": {}},
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
}


def body_with(path, salt):
    """The body with a salt, and a length that keeps the test short."""
    body = BODIES[path]
    if path == "/vertex":
        parameters = {"max_new_tokens": 4, "cache_salt": salt}
        return {"instances": [{"inputs": "hello", "parameters": parameters}]}
    if "parameters" in body:
        return body | {"parameters": {"max_new_tokens": 4, "cache_salt": salt}}
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    return body | {limit: 4, "cache_salt": salt}


@pytest.mark.parametrize("path", BODIES)
async def test_the_salt_reaches_the_engine(make_client, path):
    engine = FakeEngine()
    async with make_client(engine) as client:
        response = await client.post(path, json=body_with(path, "tenant 7"))
        assert response.status_code == 200, response.text
        await client.post(path, json=body_with(path, None))
    assert [request.cache_salt for request in engine.requests] == ["tenant 7", ""]


@pytest.mark.parametrize(("salt", "length"), [("", 0), ("x" * 257, 257)])
async def test_the_length_of_a_salt_has_limits(make_client, salt, length):
    async with make_client() as client:
        response = await client.post("/generate", json=body_with("/generate", salt))
    assert response.status_code == 422
    assert response.json() == {
        "error": (
            f"Input validation error: `cache_salt` must have 1 to 256 characters. Given: {length}"
        ),
        "error_type": "validation",
    }


async def test_the_longest_salt_is_accepted(make_client):
    async with make_client() as client:
        response = await client.post("/generate", json=body_with("/generate", "ß" * 256))
    assert response.status_code == 200


async def test_a_salt_that_is_no_string_is_rejected(make_client):
    async with make_client() as client:
        response = await client.post("/generate", json=body_with("/generate", 7))
    assert response.status_code == 422


async def test_the_openapi_document_has_the_salt(make_client):
    async with make_client() as client:
        document = (await client.get("/api-doc/openapi.json")).json()
    names = ("GenerateParameters", "CompletionRequest", "ChatRequest", "ResponsesRequest")
    for name in (*names, "MessagesRequest"):
        salt = document["components"]["schemas"][name]["properties"]["cache_salt"]
        assert "256" in str(salt), name
