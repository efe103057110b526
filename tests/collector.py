"""Trace collectors that run in the test process and receive OTLP over gRPC or over HTTP."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Received:
    """The export requests that a collector received, and the collector's URL."""

    def __init__(self):
        self.bodies: list[bytes] = []
        self.url = ""

    def spans(self):
        """Return all spans as protobuf messages."""
        return [span for _, span in self._pairs()]

    def services(self):
        """Return the names of the services that sent the spans."""
        resources = [resource for resource, _ in self._pairs()]
        return {
            a.value.string_value for r in resources for a in r.attributes if a.key == "service.name"
        }

    def _pairs(self):
        for body in self.bodies:
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope_spans in resource_spans.scope_spans:
                    yield from ((resource_spans.resource, span) for span in scope_spans.spans)


@contextlib.contextmanager
def grpc_collector():
    """Run a gRPC collector on a free port. Yields its `Received`."""
    received = Received()

    def export(request, context):
        del context
        received.bodies.append(request)
        return ExportTraceServiceResponse()

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method != METHOD:
                return None
            return grpc.unary_unary_rpc_method_handler(
                export, None, ExportTraceServiceResponse.SerializeToString
            )

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Handler(),))
    received.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield received
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def http_collector():
    """Run an HTTP collector on a free port. Yields its `Received`."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
