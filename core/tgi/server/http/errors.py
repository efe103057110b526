"""The errors that a route can return. They do not depend on the schema (TGI, OpenAI or Anthropic)
in which they are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, final

import msgspec

from tgi.errors import RequestError, TgiError
from tgi.server.http.json_reader import RejectionError

__all__ = ["ErrorReport", "HttpError", "RouteError", "report_of"]

_VALIDATION = "validation"


@final
class RouteError(TgiError):
    """A request is rejected before its handler runs: the key, the method or the path is wrong."""

    def __init__(
        self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """`code` is OpenAI's code for the error."""
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.headers = dict(headers or {})


HttpError = RequestError | RejectionError | RouteError
"""Every error that a route can return."""


class ErrorReport(msgspec.Struct, frozen=True):
    """The facts about an error from which each protocol builds its response."""

    status: int  # TGI's status, except if the error belongs to another protocol
    error_type: str  # the `error_type` of TGI's error object
    text: str
    code: str | None  # OpenAI's code for the error
    headers: dict[str, str]
    native_body: Literal["json", "text", "none"]  # the form of the body on TGI's own routes


def report_of(error: HttpError) -> ErrorReport:
    """The facts about an error."""
    match error:
        case RejectionError():
            return ErrorReport(error.status, _VALIDATION, error.text, None, {}, "text")
        case RouteError():
            headers = error.headers
            return ErrorReport(error.status, _VALIDATION, error.text, error.code, headers, "none")
        case _:
            wait = error.retry_after
            headers = {} if wait is None else {"retry-after": str(wait)}
            kind = error.error_type
            return ErrorReport(error.status, kind, error.text, error.code, headers, "json")
