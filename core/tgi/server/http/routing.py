"""Routing of a request to its handler: methods, API key, body, errors and client disconnects."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar, final

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tgi.errors import RequestError, TgiError
from tgi.server.http.errors import HttpError, RouteError
from tgi.server.http.json_reader import RejectionError, check_num_values, read_any_of, read_json

__all__ = [
    "DisconnectError",
    "ErrorFormatter",
    "Handler",
    "PathRoute",
    "client_of",
    "current_client",
    "read_body",
    "read_record",
    "read_variant",
    "run_until_disconnect",
]

_IPV6_NETWORK_BITS = 64  # a site usually has all addresses of such a network

current_client: ContextVar[str] = ContextVar("current_client", default="")
"""The client of the request that is handled. `PathRoute` sets it."""

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[ASGIApp]]
ErrorFormatter = Callable[[Scope, HttpError], ASGIApp]

_MANY_BYTES = 1 << 16
_MAX_SHOWN = 64  # characters of a method in an error message
_METHOD_TEXT = "The path does not support the method `{}`. Supported methods: {}."
# litellm recognizes a wrong key by the first four words, which are those of OpenAI's message.
_KEY_TEXT = (
    "Incorrect API key provided: the key is missing or wrong. Send the key as the header"
    " `Authorization: Bearer KEY`{}."
)
_CONTENT_TYPE_TEXT = "Expected request with `Content-Type: application/json`"
_CONTENT_ENCODING_TEXT = "The content encoding `{}` is not supported. Send the body uncompressed."
_TOO_LARGE_TEXT = "Failed to buffer the request body: length limit exceeded"


@final
class DisconnectError(TgiError):
    """The client disconnected before the response was complete."""


@final
class PathRoute:
    """The handlers of one path. A `get` handler also handles HEAD, whose response has no body.

    Only POST requires the API key. If the path has no `get` handler, the key is checked before the
    method. If `key_header` is set, the key may also be the value of the header with that name.

    `error_response` creates the response for every error in the schema of the client's protocol.
    """

    def __init__(
        self,
        *,
        error_response: ErrorFormatter,
        post: Handler | None = None,
        get: Handler | None = None,
        api_key: str | None = None,
        key_header: str | None = None,
    ) -> None:
        self._error_response = error_response
        self._handlers = {"POST": post, "GET": get, "HEAD": get}
        self._allow = ",".join(
            method for method, handler in self._handlers.items() if handler is not None
        )
        self._is_guarded = api_key is not None and post is not None
        self._api_key = f"{api_key}".encode()
        self._key_header = key_header
        self._guards_all_methods = get is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        request = Request(scope, receive)
        current_client.set(client_of(scope))
        try:
            response = await self._respond(request)
        except (RequestError, RejectionError, RouteError) as error:
            response = self._error_response(scope, error)
        except (DisconnectError, ClientDisconnect):
            return
        await response(scope, receive, _without_body(send) if request.method == "HEAD" else send)

    async def _respond(self, request: Request) -> ASGIApp:
        handler = self._handlers.get(request.method)
        is_guarded = self._is_guarded and (request.method == "POST" or self._guards_all_methods)
        if is_guarded and not self._has_key(request):
            raise self._key_error(None if handler else {"allow": self._allow})
        if handler is None:
            text = _METHOD_TEXT.format(request.method[:_MAX_SHOWN], self._allow)
            raise RouteError(405, "method_not_supported", text, {"allow": self._allow})
        return await handler(request)

    def _key_error(self, headers: Mapping[str, str] | None) -> RouteError:
        header = "" if self._key_header is None else f", or as the header `{self._key_header}`"
        return RouteError(401, "invalid_api_key", _KEY_TEXT.format(header), headers)

    def _has_key(self, request: Request) -> bool:
        keys = []
        # The name of the scheme is case-insensitive, and blanks around the key are ignored.
        scheme, _, token = request.headers.get("authorization", "").strip(" \t").partition(" ")
        if scheme.lower() == "bearer":
            keys.append(token.strip(" \t"))
        if self._key_header is not None:
            keys.append(request.headers.get(self._key_header, ""))
        return any(hmac.compare_digest(key.encode("latin-1"), self._api_key) for key in keys)


async def read_body(request: Request, limit: int) -> bytes:
    """Read the JSON body. Raises `RejectionError` with status 415 for another content type or a
    content encoding, and with status 413 if the body exceeds `limit` bytes.
    """
    if not _is_json(request.headers.get("content-type", "")):
        raise RejectionError(415, _CONTENT_TYPE_TEXT)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise RejectionError(415, _CONTENT_ENCODING_TEXT.format(encoding[:64]))
    parts: list[bytes] = []
    num_bytes = 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes > limit:
            raise RejectionError(413, _TOO_LARGE_TEXT)
        parts.append(part)
    return b"".join(parts)


async def read_record(request: Request, record: type[T], limit: int) -> T:
    """Read the body as `record`. Raises `RejectionError` if the body is invalid."""
    body = await read_body(request, limit)
    if len(body) < _MANY_BYTES:
        return read_json(body, record)
    await asyncio.to_thread(check_num_values, body)
    return await asyncio.to_thread(read_json, body, record)


async def read_variant(request: Request, records: Sequence[type[T]], name: str, limit: int) -> T:
    """Read the body as the first of `records` that matches. Raises `RejectionError` if no record
    matches. `name` is the name of the enum of these records in TGI. The name appears in the error
    message.
    """
    body = await read_body(request, limit)
    if len(body) < _MANY_BYTES:
        return read_any_of(body, records, name)
    await asyncio.to_thread(check_num_values, body)
    return await asyncio.to_thread(read_any_of, body, records, name)


async def run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` and return its result. If the client disconnects first, `work` is cancelled and
    awaited, and `DisconnectError` is raised.

    The request body must have been received before the call.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_wait_disconnect(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise DisconnectError
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _is_json(content_type: str) -> bool:
    essence = content_type.split(";", 1)[0].strip().lower()
    return essence == "application/json" or (
        essence.startswith("application/") and essence.endswith("+json")
    )


def _without_body(send: Send) -> Send:
    async def send_without_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_without_body


def client_of(scope: Scope) -> str:
    """Return the name of the client of a request. All addresses of one IPv6 network with a 64-bit
    prefix have the same name. Behind a proxy, uvicorn takes the address from `X-Forwarded-For` if
    the proxy is trusted (`FORWARDED_ALLOW_IPS`).
    """
    host = (scope.get("client") or ("", 0))[0]
    if ":" not in host:
        return str(host)
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return str(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _IPV6_NETWORK_BITS), strict=False))
