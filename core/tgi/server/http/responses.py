"""Responses that are not streamed, and the conversion of errors to responses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tgi.errors import RequestError
from tgi.server.http.errors import ErrorReport

__all__ = [
    "ErrorResponse",
    "JsonBlocks",
    "empty_response",
    "error_body",
    "json_response",
    "native_error_response",
    "text_response",
]

_TEXT = "text/plain; charset=utf-8"


class ErrorResponse(msgspec.Struct):
    """The error object of TGI: a message and the kind of the error."""

    error: str
    error_type: str


def json_response(
    body: bytes, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """Create a response with a JSON body."""
    return Response(body, status, headers, media_type="application/json")


def text_response(text: str, status: int = 200) -> Response:
    """Create a response with a plain-text body."""
    return Response(text, status, media_type=_TEXT)


@final
class JsonBlocks:
    """A JSON response with status 200 whose body is written in blocks. The server therefore does
    not copy a large body, and it waits for slow clients.
    """

    def __init__(self, blocks: Sequence[bytes]) -> None:
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        del scope, receive
        length = str(sum(map(len, self._blocks))).encode()
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for block in self._blocks:
            await send({"type": "http.response.body", "body": block, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


def empty_response(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Create a response without a body."""
    return Response(status_code=status, headers=headers)


def error_body(error: RequestError) -> bytes:
    """TGI's JSON object for an error."""
    return msgspec.json.encode(ErrorResponse(error.text, error.error_type))


def native_error_response(report: ErrorReport) -> Response:
    """The response for an error on TGI's own routes. An invalid body gets plain text, and a wrong
    key, method or path gets an empty body.
    """
    match report.native_body:
        case "json":
            body = msgspec.json.encode(ErrorResponse(report.text, report.error_type))
            return json_response(body, report.headers, report.status)
        case "text":
            return text_response(report.text, report.status)
        case "none":
            return empty_response(report.status, report.headers)
