"""Errors in OpenAI's schema, for responses and for streams.

The status codes are those of TGI, except for a prompt that is too long. A response contains
OpenAI's object `error` and TGI's field `error_type`.
"""

from __future__ import annotations

import re

import msgspec
from starlette.responses import Response

from tgi.errors import RequestError
from tgi.server.http.errors import ErrorReport, report_of
from tgi.server.http.json_format import format_json
from tgi.server.http.responses import json_response
from tgi.server.http.sse import event
from tgi.server.openai.response_schemas import OpenAIError, OpenAIErrorDetails

__all__ = ["openai_error_event", "openai_error_response"]

_BACKEND_STATUS = 424  # the backend failed, which is a fault of the server
_FIRST_SERVER_STATUS = 500
_RATE_LIMIT_STATUS = 429
_FIELD_STATUSES = (400, 422)  # an error can be about a field of the body

# Messages about a field contain its name. A rejection of the JSON body begins with its path.
_NAME = re.compile(r"`([\w.\[\]]+)`")
_PATH = re.compile(r"Failed to deserialize the JSON body into the target type: ([\w.\[\]]+): ")
# A message of TGI about a constraint names a keyword of the schema, and not the field.
_GRAMMAR = "Input validation error: grammar is not "
_GRAMMAR_FIELD = "response_format"


def openai_error_response(report: ErrorReport) -> Response:
    """The response for an error."""
    return json_response(msgspec.json.encode(_body(report)), report.headers, report.status)


def openai_error_event(error: RequestError) -> str:
    """The event for an error in a stream. It contains the same object as a response."""
    return event(format_json(_body(report_of(error))))


def _body(report: ErrorReport) -> OpenAIError:
    field = None
    if report.code is None and report.status in _FIELD_STATUSES:
        found = _PATH.match(report.text) or _NAME.search(report.text)
        field = found[1] if found else None
        if report.text.startswith(_GRAMMAR):
            field = _GRAMMAR_FIELD
    details = OpenAIErrorDetails(
        message=report.text,
        type=_kind(report.status),
        param=field,
        code=report.code,
    )
    return OpenAIError(details, report.error_type)


def _kind(status: int) -> str:
    if status == _RATE_LIMIT_STATUS:
        return "rate_limit_error"
    is_server_error = status == _BACKEND_STATUS or status >= _FIRST_SERVER_STATUS
    return "server_error" if is_server_error else "invalid_request_error"
