"""Client disconnects, concurrency slots and idle streams. The tests call the application directly
with ASGI events.
"""

import asyncio
import json

import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.server.generation.slots import ConcurrencyLimiter
from tgi.server.http.routing import DisconnectError, run_until_disconnect
from tgi.server.http.sse import EventStream

BODY = {"inputs": "The quick brown fox", "parameters": {"max_new_tokens": 3}}


class Call:
    """A request that runs until it ends or its client disconnects. Each send takes `num_send_turns`
    turns of the event loop, as with a slow client.
    """

    def __init__(self, app, path, body, num_send_turns=0):
        self._num_send_turns = num_send_turns
        self.sent = []
        self._left = asyncio.Event()
        self._body = json.dumps(body).encode()
        self._is_body_sent = False
        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": headers,
            "query_string": b"",
            "root_path": "",
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    def leave(self):
        self._left.set()

    @property
    def text(self):
        return b"".join(m.get("body", b"") for m in self.sent).decode()

    async def _receive(self):
        if not self._is_body_sent:
            self._is_body_sent = True
            return {"type": "http.request", "body": self._body}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        for _ in range(self._num_send_turns):
            await asyncio.sleep(0)
        self.sent.append(message)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/completions"])
async def test_a_disconnect_aborts_the_sequence(make_app, path):
    engine = FakeEngine(outputs=[])
    app = make_app(engine)
    call = Call(app, path, BODY | {"prompt": "The"})
    await until(lambda: engine.streams)
    call.leave()
    await call.task
    assert engine.aborted == [0]
    assert "[DONE]" not in call.text
    assert not any("error" in str(message) for message in call.sent)


async def test_a_disconnect_is_counted_as_dropped(make_app):
    engine = FakeEngine(outputs=[])
    app = make_app(engine)
    for path in ("/generate", "/generate_stream"):
        call = Call(app, path, BODY)
        await until(lambda path=path: len(engine.streams) == (1 if path == "/generate" else 2))
        call.leave()
        await call.task
    assert 'tgi_request_failure{err="dropped"} 2\n' in await get(app, "/metrics")


async def get(app, path):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    await app(
        {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "root_path": "",
        },
        receive,
        send,
    )
    return b"".join(m.get("body", b"") for m in sent).decode()


async def test_slots_are_limited_and_released(make_app):
    engine = FakeEngine(outputs=[])
    app = make_app(engine, max_concurrent_requests=2)
    held = [Call(app, "/generate", BODY), Call(app, "/generate_stream", BODY)]
    await until(lambda: len(engine.streams) == 2)
    rejected = Call(app, "/generate", BODY)
    await rejected.task
    assert rejected.sent[0]["status"] == 429
    assert json.loads(rejected.text) == {"error": "Model is overloaded", "error_type": "overloaded"}
    rejected = Call(app, "/generate_stream", BODY)
    await rejected.task
    assert rejected.sent[0]["status"] == 200
    assert rejected.text == 'data: {"error":"Model is overloaded","error_type":"overloaded"}\n\n'
    for call in held:
        call.leave()
        await call.task
    engine.outputs = None
    for path in ("/generate", "/generate_stream", "/generate"):
        call = Call(app, path, BODY)
        await call.task
        assert call.sent[0]["status"] == 200
        assert "overloaded" not in call.text


async def test_invalid_requests_release_their_slot(make_app):
    app = make_app(max_concurrent_requests=1)
    for path in ("/generate", "/generate_stream") * 2:
        call = Call(app, path, {"inputs": ""})
        await call.task
        assert "`inputs` cannot be empty" in call.text


def test_a_slot_is_released_after_an_error():
    limiter = ConcurrencyLimiter(1)
    with pytest.raises(ZeroDivisionError), limiter.hold("a"):
        assert limiter.num_free == 0
        raise ZeroDivisionError
    assert limiter.num_free == 1


async def test_work_is_cancelled_and_awaited_before_the_disconnect_error():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    with pytest.raises(DisconnectError):
        await run_until_disconnect(receive, work())
    assert ended == [True]


CHAT = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 3, "stream": True}
STREAMS = {
    "/generate_stream": BODY,
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "fox", "stream": True},
}


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("num_turns", range(8))
async def test_a_disconnect_around_the_first_event_aborts_the_sequence(make_app, path, num_turns):
    engine = FakeEngine(outputs=[])
    call = Call(make_app(engine), path, STREAMS[path], num_send_turns=3)
    await until(lambda: engine.streams)
    # The disconnect happens before, during or after the first events, depending on `num_turns`.
    for _ in range(num_turns):
        await asyncio.sleep(0)
    call.leave()
    await call.task
    assert engine.aborted == [0]


async def test_comments_keep_an_idle_stream_alive():
    sent = []
    enough = asyncio.Event()

    async def events():
        yield "data: 1\n\n"
        await enough.wait()
        yield "data: 2\n\n"

    async def send(message):
        sent.append(message)
        if len(sent) > 4:
            enough.set()

    async def receive():
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        await EventStream(events(), {}, keep_alive_seconds=0.001)({}, receive, send)
    assert sent[0]["type"] == "http.response.start"
    bodies = [message["body"] for message in sent[1:]]
    assert bodies[0] == b"data: 1\n\n"
    assert bodies[-2:] == [b"data: 2\n\n", b""]
    assert set(bodies[1:-2]) == {b":\n\n"}
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (
        len(bodies) - 1
    ) + [False]
