"""Responses to requests that are rejected below the application: invalid bytes, heads that are too
long, slow clients, and more connections than allowed.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Sequence
from http import HTTPStatus

import httptools

__all__ = ["rejection"]

_MAX_PARSED_BYTES = 1 << 13  # the parser rejects long targets, and no route has a longer path


def rejection(
    status: int, text: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """Return a complete response with an error and the header `connection: close`.

    The error has the schema of the client's API, which depends on the path and the headers of the
    request. `target` and `headers` are the parts of the request that were received. If no path was
    received, the schema is TGI's.
    """
    # The web framework is imported while the engine starts. A server that accepts connections has
    # imported it.
    from tgi.server.error_responses import report_response  # noqa: PLC0415 - see above
    from tgi.server.http.errors import ErrorReport  # noqa: PLC0415 - see above

    error_type = "overloaded" if status == HTTPStatus.SERVICE_UNAVAILABLE else "validation"
    report = ErrorReport(status, error_type, text, None, {}, "json")
    scope = {"type": "http", "path": _path_of(target), "headers": headers}
    response = report_response(scope, report)
    phrase = ""  # 529, a status of Anthropic's API, has no phrase
    with contextlib.suppress(ValueError):
        phrase = HTTPStatus(response.status_code).phrase
    head = (
        f"HTTP/1.1 {response.status_code} {phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(response.body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + bytes(response.body)


def _path_of(target: bytes) -> str:
    """Return the path of a request target, of which the end may be missing. Returns an empty text
    if the target is not a URL.
    """
    try:
        path = httptools.parse_url(target[:_MAX_PARSED_BYTES]).path or b""
    except httptools.HttpParserInvalidURLError:
        return ""
    return urllib.parse.unquote(path.decode("latin-1"))
