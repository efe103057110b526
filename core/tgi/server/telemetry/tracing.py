"""Traces: one span per request with the durations of its generations, and W3C trace context.

Spans are plain data and independent of a tracing library. A `SpanExporter` sends them to a
collector. The names and attributes are those of TGI 3 (`router/src/server.rs`). The
attributes contain no text from users.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tgi.server.telemetry.metrics import RequestTimes

__all__ = [
    "Span",
    "SpanExporter",
    "TraceContext",
    "TracingLayer",
    "current_span",
    "record_failure",
    "record_generation",
]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_VERSION = "ff"
_FIRST_SERVER_ERROR = 500

_NAMES = {
    "/": "compat_generate",
    "/generate": "generate",
    "/generate_stream": "generate_stream",
    "/tokenize": "tokenize",
    "/chat_tokenize": "chat_tokenize",
    "/invocations": "sagemaker_compatibility",
    "/vertex": "vertex_compatibility",
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat_completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
    "/v1/models": "openai_get_model_info",
    "/info": "get_model_info",
    "/health": "health",
    "/ping": "health",
}
_UNTRACED = ("/metrics",)


@final
@dataclass(frozen=True)
class TraceContext:
    """The ids of a span in a trace, as in the header `traceparent` (W3C Trace Context, level 1)."""

    trace_id: int  # 128 bits, never 0
    span_id: int  # 64 bits, never 0
    flags: int = 1  # bit 0: sampled

    @classmethod
    def parse(cls, header: str) -> TraceContext | None:
        """Parse the header `traceparent`. Returns None if it is invalid, as the standard
        requires.
        """
        match = _TRACEPARENT.fullmatch(header.strip())
        if match is None or match[1] == _MAX_VERSION or (match[1] == "00" and match[5]):
            return None
        trace_id, span_id = int(match[2], 16), int(match[3], 16)
        return cls(trace_id, span_id, int(match[4], 16)) if trace_id and span_id else None

    @property
    def header(self) -> str:
        """The value of the header `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"

    def child(self) -> TraceContext:
        """Create the context of a child span."""
        return TraceContext(self.trace_id, _random_id(64), self.flags)


@final
@dataclass(eq=False)
class Span:
    """A timed operation. Times are in nanoseconds since 1970."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    start_ns: int
    end_ns: int = 0
    attributes: dict[str, str | int] = field(default_factory=dict)
    error: str = ""  # the kind of failure or the HTTP status; empty if there was no failure
    children: list[Span] = field(default_factory=list)

    def add_child(self, name: str, start_ns: int, end_ns: int) -> None:
        """Add a completed operation that is part of this operation."""
        self.children.append(Span(name, self.context.child(), self.context, start_ns, end_ns))


class SpanExporter(Protocol):
    """Sends completed spans to a collector."""

    def export(self, span: Span) -> None:
        """Queue a span and its children. The call does not block."""

    def close(self) -> None:
        """Send the queued spans."""


current_span: ContextVar[Span | None] = ContextVar("span of the request", default=None)
"""The span of the current request, or None if traces are off."""


def record_generation(span: Span, times: RequestTimes, seed: int | None) -> None:
    """Add a generation that has just completed to the span of its request."""
    end = time.time_ns()
    for name, seconds in (
        ("infer", times.inference),
        ("queued", times.queue),
        ("validate", times.validation),
    ):
        start = end - int(seconds * 1e9)
        span.add_child(name, start, end)
        end = start
    span.attributes |= {
        "total_time": _duration(times.total),
        "validation_time": _duration(times.validation),
        "queue_time": _duration(times.queue),
        "inference_time": _duration(times.inference),
        "time_per_token": _duration(times.per_token),
        "seed": "None" if seed is None else f"Some({seed})",
    }


def record_failure(kind: str) -> None:
    """Set the error of the current request's span. `kind` is a label value of
    `tgi_request_failure`.
    """
    span = current_span.get()
    if span is not None:
        span.error = kind


@final
class TracingLayer:
    """An ASGI layer that creates a span for each request.

    The span continues the trace of the request header `traceparent`. The response header of the
    same name contains the ids of the span.
    """

    def __init__(self, app: ASGIApp, exporter: SpanExporter) -> None:
        self._app = app
        self._exporter = exporter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        span = _begin(scope)

        async def send_with_context(message: Message) -> None:
            if message["type"] == "http.response.start":
                span.attributes["http.response.status_code"] = message["status"]
                MutableHeaders(scope=message)["traceparent"] = span.context.header
            await send(message)

        token = current_span.set(span)
        try:
            await self._app(scope, receive, send_with_context)
        finally:
            current_span.reset(token)
            self._finish(span)

    def _finish(self, span: Span) -> None:
        span.end_ns = time.time_ns()
        status = span.attributes.get("http.response.status_code", 0)
        if not span.error and isinstance(status, int) and status >= _FIRST_SERVER_ERROR:
            span.error = str(status)
        self._exporter.export(span)


def _begin(scope: Scope) -> Span:
    path: str = scope["path"]
    method: str = scope["method"]
    parent = TraceContext.parse(Headers(scope=scope).get("traceparent", ""))
    context = TraceContext(_random_id(128), _random_id(64)) if parent is None else parent.child()
    name = "health" if path == "/" and method != "POST" else _NAMES.get(path, method)
    return Span(name, context, parent, time.time_ns(), attributes={"http.request.method": method})


def _random_id(num_bits: int) -> int:
    return secrets.randbelow(2**num_bits - 1) + 1


def _duration(seconds: float) -> str:
    """Format a duration like the spans of TGI: `1.5s`, `12.3ms`, `4.5µs`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.6f}".rstrip("0").rstrip(".") + unit
    return f"{seconds * 1e9:.0f}ns"
