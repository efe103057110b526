"""The number of calls and writes that the front end makes per token of a stream, and per request of
one token. If a limit is exceeded, check whether the additional work is necessary.

A count per token is the difference between a long and a short stream, divided by the difference in
tokens. Work that is done once per stream therefore cancels out.
"""

import asyncio
import json

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.work_counter import count_calls
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

SHORT, LONG = 10, 40
STREAMS = {"/generate": "/generate_stream"}
ROUTES = {
    "/generate_stream": {"inputs": "fox", "parameters": {"max_new_tokens": LONG}},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "fox"}],
        "stream": True,
        "max_tokens": LONG,
    },
}
# Calls per token if each token is sent alone, including those of the event loop and of this test.
MAX_CALLS = 95
# Calls per request of one token, without a stream.
MAX_REQUEST_CALLS = {"/generate": 1050, "/v1/chat/completions": 1400}
# A short prompt is tokenized in the event loop. Chat templates are rendered by another process, for
# which a thread waits.
NUM_THREAD_CALLS = {"/generate": 0, "/v1/chat/completions": 1}


class Stream:
    """A streaming request to the application. The test supplies the tokens of its engine."""

    def __init__(self, app, engine, path, extra=lambda: None):
        self.bodies = []
        self._is_received = self._is_waiting = self._has_begun = False
        self._app, self._engine, self._path, self._extra = app, engine, path, extra

    async def begin(self):
        """Send the request. Returns when the engine has received it and the response has begun."""
        self._serving = asyncio.ensure_future(self._app(self._scope(), self._receive, self._send))
        while not self._engine.streams:
            await asyncio.sleep(0.001)
        while not (self._has_begun and self._is_waiting):
            await asyncio.sleep(0)

    async def feed(self, num_tokens, together):
        """Supply tokens in groups of `together`. The next group follows when the previous one has
        been written.
        """
        [sequence] = self._engine.streams
        token = sequence.request.prompt_token_ids[-1]
        for first in range(0, num_tokens, together):
            num_before = len(self.bodies)
            for index in range(first, first + together):
                finish = FinishReason.LENGTH if index == num_tokens - 1 else None
                sequence.put(SequenceOutput(sequence.sequence_id, [token], finish, logprobs=[-0.5]))
            while len(self.bodies) == num_before:
                await asyncio.sleep(0)
        await self._serving

    def _scope(self):
        headers = [(b"content-type", b"application/json")]
        return {
            "type": "http",
            "method": "POST",
            "path": self._path,
            "headers": headers,
            "query_string": b"",
        }

    async def _receive(self):
        if self._is_received:
            self._is_waiting = True
            await asyncio.Event().wait()
        self._is_received = True
        return {"type": "http.request", "body": json.dumps(ROUTES[self._path]).encode()}

    async def _send(self, message):
        self._extra()
        if message["type"] == "http.response.start":
            self._has_begun, self._is_waiting = True, False
        if message.get("body"):
            self.bodies.append(message["body"])


@pytest.fixture
def serve(make_app):
    def serve_one(path, num_tokens, together=1, extra=lambda: None):
        engine = FakeEngine([])
        stream = Stream(make_app(engine), engine, path, extra)
        with asyncio.Runner() as runner:
            runner.run(stream.begin())
            num_calls = count_calls(lambda: runner.run(stream.feed(num_tokens, together)))
        return num_calls, stream.bodies

    return serve_one


def calls_per_token(serve, path, extra=lambda: None):
    serve(path, SHORT)  # Fill the caches.
    return (serve(path, LONG, extra=extra)[0] - serve(path, SHORT, extra=extra)[0]) / (LONG - SHORT)


@pytest.mark.parametrize("path", ROUTES)
def test_calls_per_token(serve, path):
    num_calls = calls_per_token(serve, path)
    print(f"{path}: {num_calls} calls per token")
    assert num_calls <= MAX_CALLS


@pytest.mark.parametrize("path", ROUTES)
def test_additional_calls_exceed_the_limit(serve, path):
    assert calls_per_token(serve, path, extra=lambda: [abs(n) for n in range(20)]) > MAX_CALLS


@pytest.mark.parametrize("path", ROUTES)
def test_available_tokens_are_sent_in_one_write(serve, path):
    apart, together = serve(path, LONG)[1], serve(path, LONG, together=LONG)[1]
    assert [body.count(b"data: {") for body in apart if b"{" in body] == [1] * LONG
    assert [body.count(b"data: {") for body in together if b"{" in body] == [LONG]


class OneToken:
    """One request for one token. The engine has the token when it receives the request."""

    def __init__(self, app, path, extra):
        self.statuses = []
        self._app, self._path, self._extra = app, path, extra
        body = dict(ROUTES[STREAMS.get(path, path)], stream=False)
        if "parameters" in body:
            body["parameters"] = {"max_new_tokens": 1}
        else:
            body["max_tokens"] = 1
        self._bodies = [json.dumps(body).encode()]

    async def run(self):
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": self._path, "headers": headers}
        await self._app({**scope, "query_string": b""}, self._receive, self._send)

    async def _receive(self):
        if not self._bodies:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": self._bodies.pop()}

    async def _send(self, message):
        self._extra()
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts the calls that it passes to threads."""

    num_thread_calls = 0

    def run_in_executor(self, executor, func, *arguments):
        self.num_thread_calls += 1
        return super().run_in_executor(executor, func, *arguments)


def work_per_request(make_app, path, extra=lambda: None):
    """The calls of functions and of threads for one request of one token. The calls of the second
    request are counted, because the first one fills caches.
    """
    app = make_app(FakeEngine())
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        runner.run(OneToken(app, path, extra).run())
        before = loop.num_thread_calls
        sent = OneToken(app, path, extra)
        num_calls = count_calls(lambda: runner.run(sent.run()))
        assert sent.statuses == [200]
        return num_calls, loop.num_thread_calls - before


@pytest.mark.parametrize("path", MAX_REQUEST_CALLS)
def test_work_per_request(make_app, path):
    num_calls, num_thread_calls = work_per_request(make_app, path)
    print(f"{path}: {num_calls} calls per request, {num_thread_calls} calls of threads")
    assert num_calls <= MAX_REQUEST_CALLS[path]
    assert num_thread_calls == NUM_THREAD_CALLS[path]


@pytest.mark.parametrize("path", MAX_REQUEST_CALLS)
def test_additional_calls_of_a_request_exceed_the_limit(make_app, path):
    def extra():
        return [json.dumps(n) for n in range(50)]

    assert work_per_request(make_app, path, extra)[0] > MAX_REQUEST_CALLS[path]
