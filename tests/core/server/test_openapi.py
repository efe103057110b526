"""The OpenAPI document, and the page that displays it."""

import re

import pytest

TGI_PATHS = {
    "/": {"post"},
    "/chat_tokenize": {"post"},
    "/generate": {"post"},
    "/generate_stream": {"post"},
    "/health": {"get"},
    "/info": {"get"},
    "/invocations": {"post"},
    "/metrics": {"get"},
    "/tokenize": {"post"},
    "/v1/chat/completions": {"post"},
    "/v1/completions": {"post"},
    "/v1/models": {"get"},
}


def references(value):
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k == "$ref")
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def keywords(value):
    if isinstance(value, dict):
        yield from value.items()
        for member in value.values():
            yield from keywords(member)
    elif isinstance(value, list):
        for member in value:
            yield from keywords(member)


@pytest.fixture
async def document(make_client):
    async with make_client() as client:
        response = await client.get("/api-doc/openapi.json")
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def test_the_document_contains_tgis_paths_and_ours(document):
    assert document["openapi"] == "3.0.3"
    assert document["info"]["title"] == "Text Generation Inference"
    for path, methods in TGI_PATHS.items():
        assert document["paths"][path].keys() >= methods, path
    assert {
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/vertex",
        "/info/backend",
    } <= document["paths"].keys()


async def test_every_reference_has_a_target(document):
    found = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert "GenerateParameters" in found
    assert found <= document["components"]["schemas"].keys()


async def test_no_keyword_of_a_later_openapi_version_is_used(document):
    for key, value in keywords(document["paths"] | document["components"]["schemas"]):
        assert key not in {"const", "$defs", "prefixItems"}
        assert not (key == "type" and value == "null")
        assert not (key == "type" and isinstance(value, list))


def schemas_of(value):
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from schemas_of(member)
    elif isinstance(value, list):
        for member in value:
            yield from schemas_of(member)


async def test_every_array_has_items(document):
    arrays = [schema for schema in schemas_of(document) if schema.get("type") == "array"]
    assert arrays
    assert all("items" in schema for schema in arrays)


async def test_operations_have_unique_names(document):
    names = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(set(names)) == len(names)


async def test_every_documented_route_exists(make_client, document):
    async with make_client() as client:
        for path, methods in document["paths"].items():
            for method in methods:
                real = re.sub(r"\{\w+\}", "tiny", path)
                status = (
                    await client.request(method, real, json={} if method == "post" else None)
                ).status_code
                assert status not in {404, 405}, (method, path)


async def test_the_page_loads_nothing_from_other_servers(make_client):
    async with make_client() as client:
        moved = await client.get("/docs")
        page = await client.get("/docs/")
        assert (moved.status_code, moved.headers["location"]) == (303, "/docs/")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "://" not in page.text
        for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert (await client.get(f"/docs/{name}")).status_code == 200, name
        bundle = await client.get("/docs/swagger-ui-bundle.js")
        start = await client.get("/docs/start.js")
        missing = await client.get("/docs/..%2F__init__.py")
    assert "SwaggerUIBundle" in bundle.text
    assert bundle.headers["content-type"].startswith("text/javascript")
    assert "../api-doc/openapi.json" in start.text
    assert missing.status_code == 404


async def test_the_key_protects_the_documented_routes(make_client, document):
    async with make_client(api_key="k") as client:
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                real = re.sub(r"\{\w+\}", "x", path)
                status = (
                    await client.request(method, real, json={} if method == "post" else None)
                ).status_code
                assert (status == 401) == ("security" in operation), (method, path)
                assert (status == 401) == (method == "post"), (method, path)


CONSTRAINTS = {
    *("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice"),
    "guided_grammar",
}
REASONING = {"chat_template_kwargs", "enable_thinking", "thinking_token_budget"}
TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        ("GenerateParameters", {"grammar"}),
        ("CompletionRequest", CONSTRAINTS),
        ("ChatRequest", {*CONSTRAINTS, *REASONING, *TOOLS, "reasoning_effort", "tool_prompt"}),
        ("ResponsesRequest", {*REASONING, *TOOLS, "reasoning", "text"}),
        ("MessagesRequest", {"tools", "tool_choice", "thinking", "output_config"}),
        ("CountTokensRequest", {"tools", "tool_choice", "thinking"}),
        ("ChatTool", {"type", "function"}),
        ("FunctionDefinition", {"name", "description", "parameters", "strict"}),
        ("ResponseTool", {"type", "name", "description", "parameters", "strict"}),
        ("InputItem", {"call_id", "name", "arguments", "output"}),
        ("AnthropicTool", {"type", "name", "description", "input_schema", "strict"}),
        ("ContentBlock", {"id", "name", "input", "tool_use_id", "content", "is_error"}),
    ],
)
async def test_constraints_tools_and_reasoning_are_described(document, record, fields):
    described = document["components"]["schemas"][record]["properties"]
    assert described.keys() >= fields
    assert all(described[name] for name in fields)
