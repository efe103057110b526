"""HTTP/1.1 on one connection: uvicorn's httptools protocol with the rules of hyper, TGI 3's server.

uvicorn stops to parse a connection at an `Upgrade` offer, sends chunks to HTTP/1.0 clients, appends
trailers to the headers, and writes an error for an invalid request into a response that is in
progress. This class changes these points. It relies on internals of uvicorn, which the tests in
`tests/core/server/http` check.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from http import HTTPStatus
from typing import Any, final

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tgi.cli.http_1_0 import Http10Cycle

__all__ = ["HttpProtocol"]

_INVALID_TEXT = "The bytes received are not a valid HTTP request."
_VERSION_TEXT = "The HTTP version is not supported. Supported are 1.0 and 1.1."
_ENCODING_TEXT = "A request with HTTP/1.0 cannot have the header `Transfer-Encoding`."
_CONNECT_TEXT = "The method CONNECT is not supported, because the server is not a proxy."


@final
class HttpProtocol(HttpToolsProtocol):
    """The server's side of one connection.

    Offers to change the protocol (`Upgrade: h2c`, `Upgrade: websocket`) are ignored: the request is
    served as HTTP/1.1 and its body is read, as hyper does without an upgrade handler.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*arguments, **options)
        self._is_in_head = True
        self._is_in_body = False
        self._has_offer = False  # the current request offers another protocol
        self._running: RequestResponseCycle | None = None  # the cycle whose response is next
        self._rejection = b""  # the response to an invalid request, after which nothing is read

    def data_received(self, data: bytes) -> None:
        """Parse the bytes of zero or more requests."""
        self._unset_keepalive_if_required()
        pieces = [data]
        while pieces and not self._rejection:
            piece = pieces.pop()
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as stop:
                # The parser has skipped the body. Its result is dropped, and a new parser reads
                # the same head without the offer.
                pieces += [piece[stop.args[0] :], self._head_without_offer()]
                self._replace_parser()
            except httptools.HttpParserError:
                self._reject(400, _INVALID_TEXT)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_head = True
        self._has_offer = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after a chunked body. Trailers are ignored."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head is complete. Start the application, or queue the request behind an earlier one."""
        self._is_in_head = False
        if self.parser.should_upgrade():
            self._has_offer = True
            if self.parser.get_method() == b"CONNECT":
                self._reject(405, _CONNECT_TEXT)
            return
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._reject(400, _VERSION_TEXT)
            return
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            self._reject(400, _ENCODING_TEXT)
            return
        self._fill_scope(version)
        self._is_in_body = True
        kind = Http10Cycle if version == "1.0" else RequestResponseCycle
        self.cycle = kind(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue and version != "1.0",
            keep_alive=self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if self._running is None:
            self._start(self.cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if not self._has_offer:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._is_in_body = False
        if self._has_offer:
            return
        if not self.parser.should_keep_alive():
            # A trailer can contain `Connection: close`. The parser then ignores all later bytes.
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response was written. Start the next request, or write the pending rejection."""
        self._running = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self._rejection and self._running is None:
            self._close_with_rejection()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected. Requests that have not been started are dropped."""
        self.pipeline.clear()
        running, self._running = self._running, None
        if running is not None and running is not self.cycle:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        self._start_asgi_task(cycle, self.app)

    def _fill_scope(self, version: str) -> None:
        """Add the request line to the scope. Raises `HttpParserError` if the target is invalid."""
        target = httptools.parse_url(self.url)
        # The path of `GET http://host` is None, though the type says bytes.
        raw_path = target.path or b"/"
        path = raw_path.decode("ascii")
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = target.query or b""

    def _head_without_offer(self) -> bytes:
        """The head of the current request without its `Upgrade` headers."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([*lines, b"\r\n"])

    def _replace_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        # Bytes after a request with `Connection: close` are ignored, as in uvicorn and hyper.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _reject(self, status: int, text: str) -> None:
        """Answer an invalid request after the responses to all earlier requests, then close."""
        self._rejection = _error_response(status, text)
        if self._is_in_body and self.cycle is not self._running:
            if self.cycle.response_complete:
                self.transport.close()
                return
            self.pipeline.popleft()  # the request with the invalid body; it was never started
        elif self._is_in_body and self.cycle.response_started:
            self.transport.close()
            return
        elif self._is_in_body:
            self._running = None
        if self._running is None:
            self._close_with_rejection()
        else:
            self.flow.pause_reading()

    def _close_with_rejection(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._rejection)
            self.transport.close()


def _error_response(status: int, text: str) -> bytes:
    """A complete response with TGI's error object, after which the connection is closed."""
    body = msgspec.json.encode({"error": text, "error_type": "validation"})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
