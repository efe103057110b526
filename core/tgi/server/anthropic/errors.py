"""Errors in Anthropic's schema, for responses and for streams. Statuses and types are those of the
Anthropic API reference.
"""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tgi.errors import RequestError
from tgi.server.anthropic.response_schemas import AnthropicError, ErrorDetails
from tgi.server.http.errors import ErrorReport, report_of
from tgi.server.http.responses import json_response

__all__ = ["anthropic_error_body", "anthropic_error_response"]

_BAD_REQUEST = (400, "invalid_request_error")
_ERRORS = {
    400: _BAD_REQUEST,
    401: (401, "authentication_error"),
    404: (404, "not_found_error"),
    405: (405, "invalid_request_error"),
    408: (408, "timeout_error"),
    413: (413, "request_too_large"),
    414: (414, "request_too_large"),
    415: _BAD_REQUEST,
    422: _BAD_REQUEST,
    429: (429, "rate_limit_error"),
    431: (431, "request_too_large"),
    503: (529, "overloaded_error"),
}
_OTHER_ERROR = (500, "api_error")


def anthropic_error_response(report: ErrorReport) -> Response:
    """The response for an error."""
    status, _ = _ERRORS.get(report.status, _OTHER_ERROR)
    return json_response(msgspec.json.encode(_body(report)), report.headers, status)


def anthropic_error_body(error: RequestError) -> AnthropicError:
    """The event for an error in a stream."""
    return _body(report_of(error))


def _body(report: ErrorReport) -> AnthropicError:
    _, kind = _ERRORS.get(report.status, _OTHER_ERROR)
    return AnthropicError("error", ErrorDetails(kind, report.text))
