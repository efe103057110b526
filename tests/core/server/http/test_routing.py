"""Routing: paths, methods, API key, content type, body limit and allowed origins."""

import pytest

POST_PATHS = [
    "/generate",
    "/generate_stream",
    "/tokenize",
    "/v1/completions",
    "/v1/chat/completions",
]
GET_PATHS = ["/info", "/info/backend", "/health", "/ping", "/metrics", "/v1/models"]
# Errors below `/v1/` have a body. `test_error_formats.py` checks it.
NATIVE_PATHS = [path for path in [*POST_PATHS, *GET_PATHS] if not path.startswith("/v1/")]
VARY = "origin, access-control-request-method, access-control-request-headers"


async def test_an_unknown_path_is_404_without_body(make_client):
    async with make_client(api_key="k") as client:
        for path in ("/nothing", "/generate/", "/v1"):
            response = await client.get(path)
            assert (response.status_code, response.content) == (404, b"")


async def test_a_wrong_method_is_405_and_lists_the_allowed_ones(make_client):
    async with make_client() as client:
        for path, allow in [
            *((p, "POST") for p in POST_PATHS),
            *((p, "GET,HEAD") for p in GET_PATHS),
            ("/", "POST,GET,HEAD"),
        ]:
            response = await client.put(path)
            assert (response.status_code, response.headers["allow"]) == (405, allow), path
            assert (response.content == b"") == (path in {*NATIVE_PATHS, "/"}), path


async def test_get_routes_accept_head(make_client):
    async with make_client() as client:
        for path in [*GET_PATHS, "/"]:
            response = await client.head(path)
            assert (response.status_code, response.content) == (200, b""), path


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer Key", "key", "Basic key", "Bearer k ey", "Bearer", "Bearerkey", "Bearer kéy"],
)
async def test_without_the_exact_key_protected_routes_are_401(make_client, authorization):
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    async with make_client(api_key="key") as client:
        for path in [*POST_PATHS, "/"]:
            response = await client.post(path, json={"inputs": "a"}, headers=headers)
            assert response.status_code == 401, path
            assert (response.content == b"") == (path in {*NATIVE_PATHS, "/"}), path


async def test_the_key_gives_access_and_open_routes_need_no_key(make_client):
    async with make_client(api_key="key") as client:
        response = await client.post(
            "/generate", json={"inputs": "a"}, headers={"authorization": "Bearer key"}
        )
        assert response.status_code == 200
        for path in [*GET_PATHS, "/"]:
            assert (await client.get(path)).status_code == 200, path


@pytest.mark.parametrize(
    "authorization", ["bearer key", "BEARER key", "Bearer  key", "Bearer key ", " Bearer key\t"]
)
async def test_the_scheme_has_no_case_and_blanks_do_not_matter(make_client, authorization):
    async with make_client(api_key="key") as client:
        response = await client.post(
            "/generate", json={"inputs": "a"}, headers={"authorization": authorization}
        )
    assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_a_content_encoding_is_415_and_named(make_client, encoding):
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    async with make_client() as client:
        response = await client.post("/generate", content=b"\x1f\x8b", headers=headers)
        headers["content-encoding"] = "identity"
        plain = await client.post("/generate", content=b'{"inputs":"a"}', headers=headers)
    assert (response.status_code, plain.status_code) == (415, 200)
    assert f"`{encoding}`" in response.text


async def test_a_preflight_allows_the_headers_that_it_asks_for(make_client):
    asked = "authorization,x-api-key,anthropic-version,x-stainless-lang"
    async with make_client() as client:
        response = await client.options(
            "/v1/messages", headers={"access-control-request-headers": asked}
        )
    assert response.headers["access-control-allow-headers"] == asked


async def test_an_asterisk_allows_every_origin(make_client):
    async with make_client(cors_allow_origin=("*",)) as client:
        response = await client.get("/info", headers={"origin": "https://b.example"})
    assert response.headers["access-control-allow-origin"] == "*"


async def test_the_key_is_checked_before_the_method(make_client):
    async with make_client(api_key="key") as client:
        response = await client.get("/generate")
        assert (response.status_code, response.headers["allow"]) == (401, "POST")
        assert (await client.put("/")).status_code == 405


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_another_content_type_is_415(make_client, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    async with make_client() as client:
        response = await client.post("/generate", content=b"{}", headers=headers)
    assert response.status_code == 415
    assert response.text == "Expected request with `Content-Type: application/json`"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"],
)
async def test_json_content_types(make_client, content_type):
    async with make_client() as client:
        response = await client.post(
            "/generate", content=b'{"inputs":"a"}', headers={"content-type": content_type}
        )
    assert response.status_code == 200


async def test_a_body_over_the_limit_is_413(make_client):
    async with make_client(payload_limit=20) as client:
        headers = {"content-type": "application/json"}
        assert (
            await client.post("/generate", content=b'{"inputs":"aaaaaaa"}', headers=headers)
        ).status_code == 200
        response = await client.post("/generate", content=b'{"inputs":"aaaaaaaa"}', headers=headers)
    assert response.status_code == 413
    assert response.text == "Failed to buffer the request body: length limit exceeded"


async def test_every_response_allows_every_origin_by_default(make_client):
    async with make_client() as client:
        for response in (
            await client.get("/info"),
            await client.get("/nothing"),
            await client.put("/generate"),
        ):
            assert response.headers["access-control-allow-origin"] == "*"
            assert response.headers["vary"] == VARY
            assert "access-control-allow-methods" not in response.headers


async def test_a_listed_origin_is_echoed_and_another_is_not(make_client):
    async with make_client(cors_allow_origin=("https://a.example",)) as client:
        listed = await client.get("/info", headers={"origin": "https://a.example"})
        other = await client.get("/info", headers={"origin": "https://b.example"})
    assert listed.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in other.headers


async def test_options_is_a_preflight_everywhere(make_client):
    async with make_client(api_key="key") as client:
        for path in ("/generate", "/nothing"):
            response = await client.options(path)
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["access-control-allow-methods"] == "GET,POST"
            assert response.headers["access-control-allow-headers"] == "content-type"
