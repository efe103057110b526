"""The event loop continues while a route handles a body of 2 MB.

The normal test counts the calls in each callback of the loop, because a count does not depend on
other load. The long test measures the time between two turns of the loop.
"""

import asyncio
import json
import sys

import pytest

from tests.core.server.chat.conftest import FORMATS
from tests.core.server.fake_engine import FakeEngine
from tests.core.server.http.test_large_bodies import GENERATIONS, TEXT, TOKENIZATIONS

NUM_ENTRIES = 20_000
MAX_CALLS = 5_000  # in one callback of the loop
MESSAGE = {"role": "user", "content": "a"}
NAMES = [f"name{number}" for number in range(NUM_ENTRIES)]
SCHEMA = {"type": "object", "properties": {name: {"type": "string"} for name in NAMES}}
FORMAT = {"type": "json", "value": SCHEMA}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}] * NUM_ENTRIES}]
CHATS = {
    "text": {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 4},
    "messages": {"messages": [MESSAGE] * NUM_ENTRIES, "max_tokens": 4},
    "parts": {"messages": PARTS, "max_tokens": 4},
    "tools": {"messages": [MESSAGE], "tools": [{}] * NUM_ENTRIES, "max_tokens": 4},
    "functions": {
        "messages": [MESSAGE],
        "tools": [{"type": "function", "function": {"name": name}} for name in NAMES],
        "max_tokens": 4,
    },
    "flat functions": {
        "messages": [MESSAGE],
        "tools": [{"name": name} for name in NAMES],
        "max_tokens": 4,
    },
    "repeated functions": {
        "messages": [MESSAGE],
        "tools": [{"type": "function", "function": {"name": "f"}}] * NUM_ENTRIES,
        "max_tokens": 4,
    },
    "schema": {"messages": [MESSAGE], "max_tokens": 4, "guided_json": SCHEMA},
    "format": {"messages": [MESSAGE], "max_tokens": 4, "response_format": FORMAT},
    "choices": {"messages": [MESSAGE], "max_tokens": 4, "guided_choice": NAMES},
    "values": {"messages": [{**MESSAGE, "x": [{}] * 600_000}], "max_tokens": 4},
}
SYSTEM = {"system": PARTS[0]["content"], "messages": [MESSAGE], "max_tokens": 4}
NATIVE = {
    "text": {"inputs": TEXT},
    "stop strings": {"inputs": "a", "parameters": {"stop": ["a"] * NUM_ENTRIES}},
    "long stop strings": {"inputs": "a", "parameters": {"stop": ["a" * 490_000] * 4}},
    "grammar": {"inputs": "a", "parameters": {"grammar": FORMAT}},
    "unknown fields": {"inputs": "a", **{f"x{number}": 0 for number in range(NUM_ENTRIES)}},
    "values": {"inputs": "a", "x": [{}] * 600_000},
}
# The bodies of each route, by path. A new route that accepts a body must be added here.
BODIES = {
    "/": NATIVE,
    "/generate": NATIVE,
    "/generate_stream": NATIVE,
    "/tokenize": NATIVE,
    "/invocations": NATIVE,
    "/vertex": {
        "text": GENERATIONS["/vertex"],
        "instances": {"instances": [{"inputs": "a"}] * NUM_ENTRIES},
    },
    "/v1/completions": {
        "text": GENERATIONS["/v1/completions"],
        "prompts": {"prompt": ["a"] * NUM_ENTRIES},
        "ids": {"prompt": [1] * 600_000},
        "logit bias": {"prompt": "a", "logit_bias": {str(n): 1 for n in range(100_000)}},
    },
    "/v1/chat/completions": {
        **CHATS,
        "logit bias": {
            "messages": [MESSAGE],
            "logit_bias": {str(number): 1 for number in range(100_000)},
        },
    },
    "/chat_tokenize": CHATS,
    "/v1/messages": {**CHATS, "system": SYSTEM},
    "/v1/messages/count_tokens": {**CHATS, "system": SYSTEM},
    "/v1/responses": {
        "text": GENERATIONS["/v1/responses"],
        "items": {"input": [{"role": "user", "content": "a"}] * NUM_ENTRIES},
        "functions": {
            "input": "a",
            "tools": [{"type": "function", "name": name} for name in NAMES],
        },
        "parts": {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}] * NUM_ENTRIES}
            ]
        },
    },
    "/v2/models/tiny/versions/1/infer": {
        "data": GENERATIONS["/v2/models/tiny/versions/1/infer"],
        "inputs": {
            "id": "1",
            "outputs": [{"name": "text"}],
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [97]}]
            * NUM_ENTRIES,
        },
    },
}
CASES = [(path, kind) for path, bodies in BODIES.items() for kind in bodies]


def encoded(path, kind):
    return json.dumps(BODIES[path][kind], separators=(",", ":")).encode()


class ScriptedConnection:
    """Sends one request to an application, with the body in one piece, and counts the response."""

    def __init__(self, app, path, body):
        self._app, self._path = app, path
        self._messages = [{"type": "http.request", "body": body}]
        self.status, self.num_bytes = 0, 0

    async def run(self):
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": self._path, "query_string": b""}
        await self._app({**scope, "headers": headers}, self._receive, self._send)

    async def _receive(self):
        if self._messages:
            return self._messages.pop()
        return await asyncio.Event().wait()

    async def _send(self, message):
        self.status = message.get("status", self.status)
        self.num_bytes += len(message.get("body", b""))


class CallbackCounter:
    """Counts the calls in each callback of the event loop."""

    def __init__(self):
        self.longest = self._num_calls = 0
        self._inside = asyncio.events.Handle._run.__code__

    def __call__(self, frame, event, argument):
        del argument
        if event == "call" and frame.f_code is self._inside:
            self._num_calls = 0
        if event in ("call", "c_call"):
            self._num_calls += 1
            self.longest = max(self.longest, self._num_calls)


def longest_callback(work):
    """Run a coroutine. Returns the largest number of calls in one callback of the loop."""
    counter = CallbackCounter()
    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))
        before = sys.getprofile()
        sys.setprofile(counter)
        try:
            runner.run(work)
        finally:
            sys.setprofile(before)
    return counter.longest


def test_every_route_with_a_body_is_listed(make_app):
    app = make_app()
    routes = {route.path: route.app for route in app._app.app.routes}
    routes = {path: route for path, route in routes.items() if route._handlers["POST"]}
    filled = {path.format(model="tiny", version=1) for path in routes}
    assert {path.rstrip("/") or "/" for path in filled} == set(BODIES)
    assert set(GENERATIONS) | set(TOKENIZATIONS) == set(BODIES)


@pytest.mark.parametrize(("path", "kind"), CASES)
def test_no_callback_of_the_loop_does_much_work(make_app, path, kind):
    engine = FakeEngine(features=("mask", "logprobs", "prompt_logprobs"))
    app = make_app(engine, output_formats=FORMATS)
    connection = ScriptedConnection(app, path, encoded(path, kind))
    num_calls = longest_callback(connection.run())
    print(f"{path}, {kind}: {num_calls} calls, status {connection.status}")
    assert connection.status in (200, 400, 413, 422, 429)
    assert num_calls <= MAX_CALLS


def test_much_work_in_one_callback_is_found():
    async def work():
        await asyncio.sleep(0)
        for number in range(MAX_CALLS):
            abs(number)

    assert longest_callback(work()) > MAX_CALLS


async def lags_during(work):
    """Run a coroutine. Returns the times between two turns of the loop, in ms, without the 1 ms of
    each pause.
    """
    loop, lags = asyncio.get_running_loop(), []
    task = asyncio.ensure_future(work)
    last = loop.time()
    while not task.done():
        await asyncio.sleep(0.001)
        now = loop.time()
        lags.append(max(0.0, (now - last) * 1e3 - 1))
        last = now
    await task
    return lags


@pytest.mark.long
@pytest.mark.parametrize("path", BODIES)
async def test_the_loop_lags_by_less_than_20_ms(make_app, tokenizer, path):
    """This test requires an idle machine."""
    lags, app = [], make_app(tokenizer_folder=tokenizer.folder)
    for kind in BODIES[path]:
        body = encoded(path, kind)
        for _ in range(10):
            found = await lags_during(ScriptedConnection(app, path, body).run())
            lags += found
            print(f"{path}, {kind}: {max(found):.1f} ms")
    p999 = sorted(lags)[int(len(lags) * 0.999)]
    print(f"{path}: p99.9 {p999:.1f} ms of {len(lags)} turns")
    assert p999 < 20
