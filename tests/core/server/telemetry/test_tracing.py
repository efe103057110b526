"""Spans of requests, the trace context of requests and responses, and export by OTLP over gRPC and
HTTP.
"""

import subprocess
import sys

import httpx
import pytest

from tests.collector import grpc_collector, http_collector
from tests.core.server.fake_engine import FakeEngine
from tgi.errors import ConfigError
from tgi.scheduler.records import SequenceOutput
from tgi.server.telemetry.otlp import OtlpExporter
from tgi.server.telemetry.tracing import (
    Span,
    TraceContext,
    TracingLayer,
    current_span,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"inputs": "hello", "parameters": {"max_new_tokens": 3, "do_sample": True, "seed": 7}}


class Exported(list):
    def export(self, span):
        self.append(span)


@pytest.fixture
def spans():
    return Exported()


@pytest.fixture
def traced(make_app, spans):
    def make(engine=None, **changes):
        transport = httpx.ASGITransport(TracingLayer(make_app(engine, **changes), spans))
        return httpx.AsyncClient(transport=transport, base_url="http://server")

    return make


async def test_a_generation_span_and_its_children(traced, spans):
    async with traced() as client:
        response = await client.post("/generate", json=BODY, headers={"traceparent": PARENT})
    (span,) = spans
    assert span.name == "generate"
    assert span.parent.header == PARENT
    assert span.context.trace_id == span.parent.trace_id
    assert response.headers["traceparent"] == span.context.header
    assert not span.error
    parts = {child.name: child for child in span.children}
    assert set(parts) == {"validate", "queued", "infer"}
    assert (
        parts["validate"].end_ns
        == parts["queued"].start_ns
        <= parts["queued"].end_ns
        == parts["infer"].start_ns
    )
    assert parts["infer"].end_ns <= span.end_ns
    assert {child.parent for child in span.children} == {span.context}
    assert len({child.context.span_id for child in [span, *span.children]}) == 4
    times = {"total_time", "validation_time", "queue_time", "inference_time", "time_per_token"}
    assert set(span.attributes) == times | {
        "seed",
        "http.request.method",
        "http.response.status_code",
    }
    assert span.attributes["seed"] == "Some(7)"
    assert span.attributes["queue_time"] == "1µs"


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/", BODY, "compat_generate"),
        ("/generate_stream", BODY, "generate_stream"),
        ("/v1/completions", {"prompt": "hello", "max_tokens": 3, "stream": True}, "completions"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3},
            "chat_completions",
        ),
    ],
)
async def test_every_generation_route_has_a_named_span_with_children(
    traced, spans, path, body, name
):
    async with traced() as client:
        assert (await client.post(path, json=body)).status_code == 200
    (span,) = spans
    assert (span.name, span.parent, len(span.children)) == (name, None, 3)


async def test_every_sequence_has_child_spans(traced, spans):
    async with traced(max_concurrent_requests=9) as client:
        body = {"prompt": ["hello", "world"], "max_tokens": 3}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert [child.name for child in spans[0].children] == ["infer", "queued", "validate"] * 2


async def test_failures_are_marked(traced, spans):
    async with traced(FakeEngine([SequenceOutput(0, error="the device is on fire")])) as client:
        await client.post("/generate", json={**BODY, "parameters": {"max_new_tokens": 0}})
        await client.post("/generate", json=BODY)
        await client.post("/generate_stream", json=BODY)
    assert [span.error for span in spans] == ["validation", "generation", "generation"]
    assert [span.attributes["http.response.status_code"] for span in spans] == [422, 424, 200]


async def test_other_routes(traced, spans):
    async with traced() as client:
        for path in ("/", "/info", "/health", "/metrics", "/none"):
            await client.get(path, headers={"traceparent": "00-0-0-01"})
    assert [(span.name, span.parent) for span in spans] == [
        ("health", None),
        ("get_model_info", None),
        ("health", None),
        ("GET", None),
    ]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        PARENT + "-x",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        PARENT[:-1],
    ],
)
def test_an_invalid_header_is_no_parent(header):
    assert TraceContext.parse(header) is None


def test_a_header_of_a_later_version_is_accepted():
    assert TraceContext.parse(PARENT.replace("00-", "01-", 1) + "-more").header == PARENT


def test_without_traces_there_is_no_span():
    assert current_span.get() is None


def make_span():
    parent = TraceContext.parse(PARENT)
    span = Span(
        "generate",
        parent.child(),
        parent,
        1_000,
        9_000,
        {"seed": "None", "http.response.status_code": 200},
        "validation",
    )
    span.add_child("infer", 2_000, 8_000)
    return span


@pytest.mark.parametrize("collector", [grpc_collector, http_collector])
def test_spans_arrive_at_a_collector(collector):
    with collector() as received:
        exporter = OtlpExporter(received.url, "my-service", "4")
        span = make_span()
        exporter.export(span)
        exporter.close()
    found = {sent.name: sent for sent in received.spans()}
    assert received.services() == {"my-service"}
    root, child = found["generate"], found["infer"]
    assert root.trace_id.hex() == child.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert child.parent_span_id == root.span_id == span.context.span_id.to_bytes(8, "big")
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (1_000, 9_000)
    assert (root.status.message, root.status.code, child.status.code) == ("validation", 2, 0)
    assert {a.key for a in root.attributes} == {"seed", "http.response.status_code"}


@pytest.mark.parametrize("endpoint", ["localhost:4317", "ftp://x", "http://", "http://x:y"])
def test_an_invalid_endpoint(endpoint):
    with pytest.raises(
        ConfigError, match=r"`otlp_endpoint` must be a URL like http://host:4317\. Given: "
    ):
        OtlpExporter(endpoint, "s", "4")


def test_missing_packages_are_a_one_line_error_at_startup():
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\nfrom tgi.cli import main;"
        " sys.exit(main(['serve', '--otlp-endpoint', 'http://127.0.0.1:1', '--port', '0']))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "Error: `--otlp-endpoint` requires packages that are not installed (opentelemetry.sdk"
    )
    assert "Install tgi with the extra `otlp`" in last
