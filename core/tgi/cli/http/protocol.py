"""Implements HTTP/1.1 on one connection: uvicorn's httptools protocol with the rules of hyper, the
HTTP server of TGI 3.

`HttpProtocol` changes these properties of uvicorn's class:

* It stops parsing the connection at an `Upgrade` offer.
* It sends chunks to HTTP/1.0 clients.
* It appends trailers to the headers.
* It writes an error for an invalid request into a response that is in progress.
* It has no limits for heads, bodies and slow clients.

The class depends on internals of uvicorn. The tests in `tests/core/server/http` check these
internals.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from typing import Any, final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tgi.cli.http.cycle import EndingCycle
from tgi.cli.http.http_1_0 import Http10Cycle
from tgi.cli.http.limits import ConnectionTable
from tgi.cli.http.rejections import rejection

__all__ = ["HttpProtocol"]

# Number of bytes that are parsed at once. It limits the number of requests that are queued.
_NUM_PIECE_BYTES = 1 << 14
_MAX_IGNORED_BYTES = 1 << 23  # maximum body size if the response is complete before the body
_MAX_FRAMING_BYTES = 1 << 16  # limit for the chunk sizes, chunk extensions and trailers of a body
_MAX_FRAMING_RATIO = 16  # additional framing bytes that are allowed per byte of the body
_LINGER_SECONDS = 2.0  # time in which bytes after an invalid request are ignored

_INVALID_TEXT = "The bytes received are not a valid HTTP request."
_VERSION_TEXT = "The HTTP version is not supported. Supported are 1.0 and 1.1."
_ENCODING_TEXT = "A request with HTTP/1.0 cannot have the header `Transfer-Encoding`."
_CONNECT_TEXT = "The method CONNECT is not supported, because the server is not a proxy."
_TARGET_TEXT = "The request line is longer than {} bytes."
_HEAD_TEXT = "The request line and the headers are longer than {} bytes."
_COUNT_TEXT = "The request has more than {} headers."
_FRAMING_TEXT = "The chunk extensions and trailers of the body are too long."
_HEAD_TIME_TEXT = "The headers were not received within {:g} s."
_BODY_TIME_TEXT = "No byte of the body was received for {:g} s."
_FULL_TEXT = "The server has reached its maximum number of connections."


@final
class _RejectedError(Exception):
    """Stops the parser after an invalid request, for which the response is already determined."""


@final
class HttpProtocol(HttpToolsProtocol):
    """The server's side of one connection.

    Offers to change the protocol (`Upgrade: h2c`, `Upgrade: websocket`) are ignored. The request is
    served as HTTP/1.1 and its body is read. hyper does the same if it has no upgrade handler.
    """

    def __init__(self, table: ConnectionTable, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(**options)
        self._table = table
        self._limits = table.limits
        self._is_for_health = False
        self._is_in_head = True  # also True between two requests
        self._is_in_body = False
        self._has_offer = False  # the current request offers to change the protocol
        # The target and the headers of the current request, or empty between two requests.
        self.url, self.headers = b"", []
        self._num_head_bytes = 0  # bytes of the current head that the parser has reported
        self._num_fed_bytes = 0  # received bytes of the current head or body, including framing
        self._num_body_bytes = 0
        self._unread: deque[bytes] = deque()  # pieces that are parsed when no request is queued
        self._running: RequestResponseCycle | None = None  # the cycle whose response is sent next
        # The response to an invalid request. If it is set, no further bytes are parsed.
        self._rejection = b""
        self._deadline: float | None = None  # deadline of the head, the body or the next request
        self._num_unsent_bytes = 0  # number of unsent bytes at the last check
        self._write_deadline = 0.0

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when a client has connected. Adds the connection to the table."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._deadline = self.loop.time() + self._limits.head_seconds
        self._is_for_health = self._table.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed. Requests that have not been started are dropped."""
        self._table.remove(self)
        self.pipeline.clear()
        self._unread.clear()
        running, self._running = self._running, None
        if running is not None and running is not self.cycle:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection without waiting for unsent data."""
        self.transport.abort()

    def check_time(self, now: float) -> None:
        """Close the connection if it has exceeded a time limit. `now` is the loop's time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._num_unsent_bytes:
            self._num_unsent_bytes = unsent
            self._write_deadline = now + self._limits.write_seconds
        elif unsent and now > self._write_deadline:
            self.abort()
            return
        if self._deadline is None or now <= self._deadline or self.transport.is_closing():
            return
        if self._rejection:
            self.abort()
        elif self._is_in_body and self.flow.read_paused:
            self._deadline = now + self._limits.body_seconds  # the application is slow
        elif self._is_in_body:
            self._reject(408, _BODY_TIME_TEXT.format(self._limits.body_seconds))
        elif self._num_fed_bytes:
            self._reject(408, _HEAD_TIME_TEXT.format(self._limits.head_seconds))
        else:
            self.transport.close()

    # Bytes of the client

    def data_received(self, data: bytes) -> None:
        """Called when bytes arrive. Parses the bytes, which may contain several requests."""
        if self._rejection:
            return
        for start in range(0, len(data), _NUM_PIECE_BYTES):
            self._unread.append(data[start : start + _NUM_PIECE_BYTES])
        self._parse()

    def _parse(self) -> None:
        """Parse the unread bytes until a request is queued behind the running request."""
        while self._unread and not self.pipeline and not self.transport.is_closing():
            self._parse_piece(self._unread.popleft())
        if self._rejection or self.transport.is_closing():
            return
        if self._unread or self.pipeline:
            self.flow.pause_reading()
        now = self.loop.time()
        if self._is_in_body:
            self._deadline = now + self._limits.body_seconds
        elif self._running is not None:
            self._deadline = None
        elif self._num_fed_bytes and self._deadline is None:
            self._deadline = now + self._limits.head_seconds

    def _parse_piece(self, piece: bytes) -> None:
        if self._is_in_head and not self._num_fed_bytes and self._running is None:
            self._deadline = None  # the time limit of the head begins
        self._num_fed_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
            self._check_fed_bytes()
        except httptools.HttpParserUpgrade as stop:
            # The parser has skipped the body. The result of the parser is dropped, and a new parser
            # reads the same head without the offer.
            self._unread.appendleft(piece[stop.args[0] :])
            head = self._head_without_offer()
            self._replace_parser()
            self._parse_piece(head)
        except (httptools.HttpParserError, _RejectedError):
            if not self._rejection:
                self._reject(400, _INVALID_TEXT)

    def _check_fed_bytes(self) -> None:
        """Limit the bytes for which the parser calls no callback. These are incomplete headers,
        empty lines and the framing of bodies.
        """
        if self._is_in_head and self._num_fed_bytes > 2 * self._limits.max_head_bytes:
            self._fail(431, _HEAD_TEXT.format(self._limits.max_head_bytes))
        if self._is_in_body:
            framing = self._num_fed_bytes - self._num_body_bytes
            if framing > _MAX_FRAMING_BYTES + _MAX_FRAMING_RATIO * self._num_body_bytes:
                self._fail(400, _FRAMING_TEXT)

    def _head_without_offer(self) -> bytes:
        """Return the head of the current request without its `Upgrade` headers."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join([*lines, b"\r\n"])

    def _replace_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        # Bytes after a request with `Connection: close` are ignored, as in uvicorn and hyper.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Called when a request begins."""
        self._has_offer = False
        self._num_head_bytes = 0
        self._num_fed_bytes += (
            1  # ensures that the number is not 0 if the piece began with an earlier request
        )
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Called with a part of the target of the request."""
        self._num_head_bytes += len(url)
        super().on_url(url)
        if self._num_head_bytes > self._limits.max_head_bytes:
            self._fail(414, _TARGET_TEXT.format(self._limits.max_head_bytes))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called with a header, or with a trailer after a chunked body. Trailers are ignored."""
        if not self._is_in_head:
            return
        self._num_head_bytes += len(name) + len(value) + 4
        if self._num_head_bytes > self._limits.max_head_bytes:
            self._fail(431, _HEAD_TEXT.format(self._limits.max_head_bytes))
        if len(self.headers) == self._limits.max_headers:
            self._fail(431, _COUNT_TEXT.format(self._limits.max_headers))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called when a head is complete. Starts the application, or queues the request behind the
        running request.
        """
        if self.parser.should_upgrade():
            self._has_offer = True
            if self.parser.get_method() == b"CONNECT":
                self._fail(405, _CONNECT_TEXT)
            return
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._fail(400, _VERSION_TEXT)
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in self.headers):
            self._fail(400, _ENCODING_TEXT)
        self._fill_scope(version)
        if self._is_for_health and self.scope["path"] not in self._limits.health_paths:
            self._fail(503, _FULL_TEXT)
        self._is_in_head, self._is_in_body = False, True
        self._num_fed_bytes = self._num_body_bytes = 0
        kind = Http10Cycle if version == "1.0" else EndingCycle
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
            keep_alive=self.parser.should_keep_alive() and not self._is_for_health,
            on_response=self.on_response_complete,
        )
        if self._running is None:
            self._start(self.cycle)
        else:
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Called with a part of a body."""
        self._num_body_bytes += len(body)
        if self.cycle.response_complete and self._num_body_bytes > _MAX_IGNORED_BYTES:
            self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called when a request is complete."""
        if self._has_offer:
            return
        self._is_in_head, self._is_in_body = True, False
        self._num_fed_bytes = 0
        self.url, self.headers = b"", []
        if not self.parser.should_keep_alive():
            # A trailer can contain `Connection: close`. The parser then ignores all later bytes.
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        if self.cycle.response_complete:
            self._set_idle()
        super().on_message_complete()

    # Requests and responses

    def on_response_complete(self) -> None:
        """Called when a response has been written. Starts the next request, or writes the pending
        rejection.
        """
        self.server_state.total_requests += 1
        self._running = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.pop()[0])
        elif self._rejection:
            self._close_with_rejection()
        elif not self._is_in_body:
            self._set_idle()
        if self._unread and not self.pipeline:
            self.loop.call_soon(self._parse)

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        self._table.set_idle(self, False)
        self._start_asgi_task(cycle, self.app)

    def _set_idle(self) -> None:
        """Mark the connection as idle and start the time limit for the next request. A part of this
        request may already have been received.
        """
        limits = self._limits
        seconds = limits.head_seconds if self._num_fed_bytes else limits.keep_alive_seconds
        self._deadline = self.loop.time() + seconds
        self._table.set_idle(self, True)

    def _fill_scope(self, version: str) -> None:
        """Add the request line to the scope. Raises `HttpParserError` if the target is invalid."""
        target = httptools.parse_url(self.url)
        # The path of `GET http://host` is None, although the annotated type is bytes.
        raw_path = target.path or b"/"
        path = raw_path.decode("ascii")
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = target.query or b""

    # Invalid requests

    def _fail(self, status: int, text: str) -> None:
        """Reject the request and stop the parser."""
        self._reject(status, text)
        raise _RejectedError

    def _reject(self, status: int, text: str) -> None:
        """Send the response to an invalid request after the responses to all earlier requests. Then
        close the connection. The error has the schema of the client's API, as far as the request
        line and the headers were received.
        """
        self._rejection = rejection(status, text, self.url, self.headers)
        self._unread.clear()
        self._deadline = None
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
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._running is None:
            self._close_with_rejection()
        else:
            self.flow.pause_reading()

    def _close_with_rejection(self) -> None:
        """Write the response and ignore the next bytes. If the connection were closed while bytes
        are unread, the client's operating system could discard the response.
        """
        if not self.transport.is_closing():
            self.transport.write(self._rejection)
            self.transport.write_eof()
            self.flow.resume_reading()
            self._deadline = self.loop.time() + _LINGER_SECONDS
