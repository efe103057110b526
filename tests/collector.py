"""A collector of traces in the test's own process: OTLP over gRPC and over HTTP."""

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
    """What has come in."""

    def __init__(self):
        self.bodies: list[bytes] = []
        self.url = ""

    def spans(self):
        """All spans, as the protocol's messages."""
        return [span for _, span in self._pairs()]

    def services(self):
        """Names of the services that sent them."""
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
    """Yields what a collector on a free port receives over gRPC."""
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
    """The same over HTTP."""
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
