"""Sends spans with OTLP over gRPC or HTTP. This module requires the packages of the extra
`otlp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

from tgi.errors import ConfigError
from tgi.server.telemetry.tracing import Span, TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter as LibraryExporter
    from opentelemetry.trace import SpanContext

__all__ = ["OtlpExporter"]

_HTTP_PORT, _HTTP_PATH = 4318, "/v1/traces"
_CLOSE_MILLISECONDS = 5000
_SCOPE_NAME = "tgi"


@final
class OtlpExporter:
    """Queues spans and sends them in a separate thread. HTTP is used if the endpoint has port 4318
    or a path. Otherwise gRPC is used.
    """

    def __init__(self, endpoint: str, service_name: str, version: str) -> None:
        """Create the exporter. Raises `ConfigError` if the packages are not installed or the
        endpoint is not a URL.
        """
        is_http = _speaks_http(endpoint)
        try:
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

            exporter = _http_exporter(endpoint) if is_http else _grpc_exporter(endpoint)
        except ImportError as error:
            raise ConfigError(
                f"`--otlp-endpoint` requires packages that are not installed ({error.name}).",
                "Install tgi with the extra `otlp`, or remove the option.",
            ) from error
        self._resource = Resource.create({"service.name": service_name, "service.version": version})
        self._scope = InstrumentationScope(_SCOPE_NAME, version)
        self._processor = BatchSpanProcessor(exporter)

    def export(self, span: Span) -> None:
        """Queue a span and its children."""
        self._processor.on_end(self._readable(span, is_root=True))
        for child in span.children:
            self._processor.on_end(self._readable(child, is_root=False))

    def close(self) -> None:
        """Send the queued spans with a timeout of 5 s, then stop the thread."""
        self._processor.force_flush(_CLOSE_MILLISECONDS)
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # The method has no annotations.

    def _readable(self, span: Span, *, is_root: bool) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - see `__init__`
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

        return ReadableSpan(
            name=span.name,
            context=_span_context(span.context, is_remote=False),
            parent=None if span.parent is None else _span_context(span.parent, is_remote=is_root),
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if is_root else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _speaks_http(endpoint: str) -> bool:
    try:
        target = urlsplit(endpoint)
        port = target.port
    except ValueError:
        target, port = urlsplit(""), None
    if target.scheme not in ("http", "https") or not target.hostname:
        raise ConfigError(f"`otlp_endpoint` must be a URL like http://host:4317. Given: {endpoint}")
    return port == _HTTP_PORT or target.path not in ("", "/")


def _http_exporter(endpoint: str) -> LibraryExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    has_path = urlsplit(endpoint).path not in ("", "/")
    return OTLPSpanExporter(endpoint if has_path else endpoint.rstrip("/") + _HTTP_PATH)


def _grpc_exporter(endpoint: str) -> LibraryExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )

    return OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"))


def _span_context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 - see `__init__`

    # As in TGI, every request is traced, even if the `sampled` flag of the caller is not set.
    return SpanContext(context.trace_id, context.span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))
