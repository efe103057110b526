"""`/invocations`, `/vertex`, `/v2`, and the routes that Vertex AI configures."""

import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.text.output.formats import OutputFormats

PROMPT = "The quick brown fox"
INFER = "/v2/models/m/versions/1/infer"
SHAPE = "Failed to deserialize the JSON body into the target type: "


def infer_body(*prompts, **changes):
    inputs = [
        {"name": f"in{i}", "shape": [1], "datatype": "BYTES", "data": list(p.encode())}
        for i, p in enumerate(prompts)
    ]
    outputs = [{"name": f"out{i}"} for i in range(len(prompts))]
    return {
        "id": "7",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"max_new_tokens": 2},
    } | changes


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"inputs": PROMPT, "parameters": {"max_new_tokens": 2}}, "/"),
        (
            {"inputs": PROMPT, "parameters": {"max_new_tokens": 2}, "messages": [], "prompt": "p"},
            "/",
        ),
        (
            {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2, "temperature": 0},
            "/v1/chat/completions",
        ),
        (
            {"inputs": 3, "messages": [{"role": "user", "content": PROMPT}], "temperature": 0},
            "/v1/chat/completions",
        ),
        ({"prompt": PROMPT, "max_tokens": 2, "temperature": 0}, "/v1/completions"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_body_determines_the_kind_of_an_invocation(make_client, body, path, stream):
    async with make_client() as client:
        invoked = await client.post("/invocations", json=body | {"stream": stream})
        direct = await client.post(path, json=body | {"stream": stream})
    assert invoked.status_code == direct.status_code == 200
    assert invoked.headers["content-type"] == direct.headers["content-type"]
    if path == "/":
        assert invoked.text == direct.text
    elif not stream:
        assert invoked.json()["choices"] == direct.json()["choices"]


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (
            b'{"inputs":3}',
            422,
            SHAPE + "data did not match any variant of untagged enum SagemakerRequest",
        ),
        (
            b'{"inputs":"a","x":}',
            400,
            "Failed to parse the request body as JSON: expected value at line 1 column 19",
        ),
        (
            b"",
            400,
            (
                "Failed to parse the request body as JSON: EOF while parsing a value at line 1"
                " column 0"
            ),
        ),
    ],
)
async def test_an_invalid_invocation_is_rejected(make_client, content, status, text):
    async with make_client() as client:
        response = await client.post(
            "/invocations", content=content, headers={"content-type": "application/json"}
        )
    assert (response.status_code, response.text) == (status, text)


async def test_bytes_after_an_invocation_are_ignored(make_client):
    async with make_client() as client:
        headers = {"content-type": "application/json"}
        response = await client.post(
            "/invocations",
            content=b'{"inputs":"a","parameters":{"max_new_tokens":1}} x',
            headers=headers,
        )
    assert response.status_code == 200


async def test_vertex_predicts_one_text_per_instance(make_client):
    native = {"inputs": PROMPT, "parameters": {"max_new_tokens": 2}}
    chat = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2, "temperature": 0}
    async with make_client() as client:
        parsed = (await client.post("/vertex", json={"instances": [native, chat]})).json()
        text = (await client.post("/generate", json=native)).json()["generated_text"]
        response = (await client.post("/v1/chat/completions", json=chat)).json()["choices"][0][
            "message"
        ]["content"]
    assert parsed == {"predictions": [text, response]}


@pytest.mark.parametrize(
    ("instances", "status", "error"),
    [
        ([], 422, {"error": "Input validation error", "error_type": "Input validation error"}),
        (
            [{"inputs": ""}],
            422,
            {
                "error": "Input validation error: `inputs` cannot be empty",
                "error_type": "validation",
            },
        ),
        ([{"inputs": "a"}] * 3, 429, {"error": "Model is overloaded", "error_type": "overloaded"}),
    ],
)
async def test_vertex_reports_errors(make_client, instances, status, error):
    async with make_client() as client:
        response = await client.post("/vertex", json={"instances": instances})
    assert (response.status_code, response.json()) == (status, error)


async def test_a_vertex_instance_of_an_unknown_type_is_rejected(make_client):
    async with make_client() as client:
        response = await client.post("/vertex", json={"instances": [{"inputs": "a"}, 5]})
    assert response.status_code == 422
    assert (
        response.text
        == f"{SHAPE}instances[1]: data did not match any variant of untagged enum VertexInstance"
    )


async def test_vertex_configures_its_routes(make_client):
    async with make_client(
        aip_predict_route="/predict", aip_health_route="/alive", api_key="k"
    ) as client:
        assert (await client.get("/alive")).status_code == 200
        assert (await client.post("/predict", json={})).status_code == 401
        named = await client.post(
            "/predict", json={"instances": []}, headers={"authorization": "Bearer k"}
        )
    assert named.status_code == 422


# The defaults of Vertex AI.
ENDPOINT = "/v1/endpoints/1/deployedModels/2"


async def test_configured_routes_have_the_errors_of_the_routes_behind_them(make_client):
    json_type = {"content-type": "application/json"}
    async with make_client(
        aip_predict_route=f"{ENDPOINT}:predict", aip_health_route=ENDPOINT, api_key="k"
    ) as client:
        for path, ours in ((f"{ENDPOINT}:predict", "/vertex"), (ENDPOINT, "/health")):
            for method, key, content in (
                ("POST", "", b"{}"),
                ("POST", "Bearer k", b"{"),
                ("POST", "Bearer k", b'{"instances": []}'),
                ("POST", "Bearer k", b'{"instances": [{"inputs": ""}]}'),
                ("PUT", "Bearer k", b""),
            ):
                headers = json_type | {"authorization": key}
                expected = await client.request(method, ours, headers=headers, content=content)
                answered = await client.request(method, path, headers=headers, content=content)
                assert answered.status_code == expected.status_code >= 400
                assert answered.content == expected.content
                assert answered.headers.get("content-type") == expected.headers.get("content-type")


async def test_a_configured_route_does_not_replace_another_route(make_client):
    async with make_client(aip_predict_route="/generate", aip_health_route="/info") as client:
        assert (await client.post("/generate", json={"inputs": "a"})).json().keys() == {
            "generated_text"
        }
        assert (await client.get("/info")).json()["model_id"] == "tiny"


async def test_kserve_metadata(make_client):
    async with make_client(api_key="k") as client:
        assert (await client.get("/v2")).json() == {
            "name": "text-generation-inference",
            "version": "4.0.0",
            "extensions": ["health", "models", "metrics"],
        }
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/versions/1/ready"):
            assert (await client.get(path)).json() == {"live": True}
        model = (await client.get("/v2/models/m/versions/1")).json()
        assert model == {"name": "m", "version": "1", "extensions": ["infer", "ready"]}
        assert (await client.post(INFER, json=infer_body(PROMPT))).status_code == 401


async def test_kserve_infers_bytes(make_client):
    async with make_client() as client:
        parsed = (await client.post(INFER, json=infer_body(PROMPT, "fox"))).json()
        texts = [
            (
                await client.post(
                    "/generate", json={"inputs": p, "parameters": {"max_new_tokens": 2}}
                )
            ).json()["generated_text"]
            for p in (PROMPT, "fox")
        ]
    assert parsed["id"] == "7"
    assert [output["name"] for output in parsed["outputs"]] == ["out0", "out1"]
    assert [bytes(output["data"]).decode() for output in parsed["outputs"]] == texts
    assert [output["shape"] for output in parsed["outputs"]] == [
        [1, len(text.encode())] for text in texts
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\xff", "invalid utf-8 sequence of 1 bytes from index 1"),
        (b"\xe2\x82a", "invalid utf-8 sequence of 2 bytes from index 0"),
        (b"ab\xe2\x82", "incomplete utf-8 byte sequence from index 2"),
    ],
)
async def test_kserve_reports_the_position_of_invalid_utf8(make_client, data, text):
    tensors = [{"name": "i", "shape": [1], "datatype": "BYTES", "data": list(data)}]
    async with make_client() as client:
        response = await client.post(INFER, json=infer_body(PROMPT, inputs=tensors))
    assert response.json() == {"error": text, "error_type": "utf8"}


@pytest.mark.parametrize(
    ("changes", "error_type"),
    [
        ({"outputs": []}, "length mismatch"),
        ({"inputs": [{"name": "i", "shape": [1], "datatype": "BYTES", "data": [255]}]}, "utf8"),
        ({"parameters": {"temperature": 0}}, "validation"),
    ],
)
async def test_kserve_reports_errors(make_client, changes, error_type):
    async with make_client() as client:
        response = await client.post(INFER, json=infer_body(PROMPT, **changes))
    assert response.status_code == 422
    assert response.json()["error_type"] == error_type


GRAMMAR = {"type": "regex", "value": "[ab]+"}
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations", {"inputs": PROMPT, "parameters": {"grammar": GRAMMAR}}),
        ("/invocations", CHAT | {"response_format": GRAMMAR}),
        ("/invocations", {"prompt": PROMPT, "max_tokens": 2, "guided_regex": "[ab]+"}),
        ("/vertex", {"instances": [{"inputs": PROMPT, "parameters": {"grammar": GRAMMAR}}]}),
        ("/vertex", {"instances": [CHAT | {"tools": TOOLS, "tool_choice": "required"}]}),
        (INFER, infer_body(PROMPT, parameters={"max_new_tokens": 2, "grammar": GRAMMAR})),
    ],
)
async def test_all_platforms_apply_constraints(make_client, path, body):
    engine = FakeEngine(features=("mask",))
    limits = {"max_total_tokens": 600, "max_input_tokens": 500}
    async with make_client(engine, output_formats=OutputFormats(), **limits) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    [request] = engine.requests
    assert request.guidance.grammar


async def test_an_invalid_tool_in_an_instance_is_rejected(make_client):
    body = {"instances": [CHAT | {"tools": TOOLS, "tool_choice": "g"}]}
    async with make_client(output_formats=OutputFormats()) as client:
        response = await client.post("/vertex", json=body)
    error = {"error": "Tool error: Tool with name g not found", "error_type": "tool_error"}
    assert (response.status_code, response.json()) == (422, error)
