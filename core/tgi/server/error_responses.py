"""Formats each error in the schema of the API that the client uses: TGI, OpenAI or Anthropic. All
routes use this module, for every status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from starlette.responses import Response
from starlette.types import Scope

from tgi.errors import RequestError
from tgi.server.anthropic.errors import anthropic_error_response
from tgi.server.http.errors import ErrorReport, HttpError, report_of
from tgi.server.http.responses import native_error_response
from tgi.server.openai.errors import openai_error_response

__all__ = ["InternalError", "error_response", "native_route_error", "report_response"]

_OPENAI_PATHS = ("/v1/chat/", "/v1/completions", "/v1/responses")
_ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_HEADER = b"anthropic-version"


@final
class InternalError(RequestError):
    """A fault of the server. The log contains the traceback."""

    status = 500
    error_type = "internal"

    def __init__(self) -> None:
        super().__init__("The server failed. The log of the server contains the reason.")


def error_response(scope: Scope, error: HttpError) -> Response:
    """Create the response for an error of a route, or of a path that does not exist."""
    return report_response(scope, report_of(error))


def report_response(scope: Scope, report: ErrorReport) -> Response:
    """Create the response for the facts about an error. Of `scope`, the path and the headers are
    used.
    """
    return _format_of(scope)(report)


def native_route_error(scope: Scope, error: HttpError) -> Response:
    """Create the response for an error of a route of TGI's own API whose path is configured. Such a
    path may begin with `/v1/`.
    """
    del scope
    return native_error_response(report_of(error))


def _format_of(scope: Scope) -> Callable[[ErrorReport], Response]:
    """Choose the format by the path. Paths that both APIs have, such as `/v1/models`, use the
    format of the client. Anthropic's clients send a header with their version of the API.
    """
    path = scope["path"]
    if not path.startswith("/v1/"):
        return native_error_response
    if path.startswith(_OPENAI_PATHS):
        return openai_error_response
    is_anthropic = any(name == _ANTHROPIC_HEADER for name, _ in scope["headers"])
    if is_anthropic or path.startswith(_ANTHROPIC_PATH):
        return anthropic_error_response
    return openai_error_response
