"""The concurrency slots, and the share of each client."""

import asyncio
from contextlib import ExitStack

import httpx
import pytest

from tests.core.server.fake_engine import FakeEngine
from tgi.errors import OverloadedError
from tgi.server.generation.slots import ConcurrencyLimiter
from tgi.server.http.routing import client_of


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Client:
    """A client that holds slots and sends requests."""

    def __init__(self, limiter, name):
        self._limiter, self._name = limiter, name
        self._held = []

    @property
    def num_held(self):
        return len(self._held)

    def ask(self, count=1):
        """Ask for slots. Returns whether the request was accepted."""
        stack = ExitStack()
        try:
            stack.enter_context(self._limiter.hold(self._name, count))
        except OverloadedError:
            return False
        self._held.append(stack)
        return True

    def end_one(self):
        self._held.pop(0).close()


@pytest.fixture
def clock():
    return Clock()


def fill(client):
    while client.ask():
        pass


@pytest.mark.parametrize("num_slots", [1, 4, 128])
def test_a_single_client_may_use_all_slots(num_slots, clock):
    limiter = ConcurrencyLimiter(num_slots, clock=clock)
    client = Client(limiter, "a")
    fill(client)
    assert client.num_held == num_slots
    client.end_one()
    assert client.ask()


@pytest.mark.parametrize("num_wanted", [1, 4])
def test_a_client_does_not_take_the_slots_that_another_client_waits_for(num_wanted, clock):
    limiter = ConcurrencyLimiter(8, clock=clock)
    greedy, modest = Client(limiter, "greedy"), Client(limiter, "modest")
    fill(greedy)
    for number in range(num_wanted):
        assert not modest.ask()
        greedy.end_one()
        assert not greedy.ask(), "the greedy client took the slot of a waiting client"
        assert modest.ask()
        assert modest.num_held == number + 1
    assert greedy.num_held == 8 - num_wanted


def test_clients_that_always_ask_reach_equal_shares(clock):
    limiter = ConcurrencyLimiter(12, clock=clock)
    clients = [Client(limiter, name) for name in "abc"]
    fill(clients[0])
    for _ in range(40):
        clock.now += 0.1
        for client in clients:
            client.ask()
        max(clients, key=lambda client: client.num_held).end_one()
        for client in clients:
            fill(client)
    assert [client.num_held for client in clients] == [4, 4, 4]


def test_slots_are_not_kept_for_a_client_that_has_gone(clock):
    limiter = ConcurrencyLimiter(4, clock=clock)
    client, gone = Client(limiter, "a"), Client(limiter, "gone")
    fill(client)
    assert not gone.ask()
    client.end_one()
    assert not client.ask()
    clock.now += 11
    assert client.ask()


def test_a_request_that_never_fits_keeps_no_slot(clock):
    limiter = ConcurrencyLimiter(4, clock=clock)
    client, other = Client(limiter, "a"), Client(limiter, "other")
    fill(client)
    assert not other.ask(count=5)
    client.end_one()
    assert client.ask()


def test_only_a_limited_number_of_rejections_is_remembered(clock):
    limiter = ConcurrencyLimiter(2, clock=clock)
    client = Client(limiter, "a")
    fill(client)
    for number in range(1000):
        assert not Client(limiter, f"client {number}").ask()
    assert len(limiter._rejections) <= 256


def test_the_limit_per_client_applies_without_other_clients(clock):
    limiter = ConcurrencyLimiter(4, 3, clock=clock)
    client, other = Client(limiter, "a"), Client(limiter, "b")
    fill(client)
    assert client.num_held == 3
    with pytest.raises(OverloadedError, match="3 of at most 3 concurrency slots per client"):
        limiter.hold("a").__enter__()
    assert other.ask()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::9", "2001:db8:1:2::/64"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_addresses_of_one_client_have_one_name(host, name):
    assert client_of({"client": (host, 1)}) == name
    assert client_of({"client": None}) == client_of({}) == ""


STREAMS = {
    "/generate_stream": {"inputs": "fox", "parameters": {"max_new_tokens": 4}},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "fox"}],
        "stream": True,
        "max_tokens": 4,
    },
    "/v1/completions": {"prompt": "fox", "stream": True, "max_tokens": 4},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "fox"}],
        "stream": True,
        "max_tokens": 4,
    },
    "/v1/responses": {"input": "fox", "stream": True, "max_output_tokens": 4},
}


@pytest.mark.parametrize("path", STREAMS)
async def test_streams_of_one_address_leave_the_share_of_another(make_app, path):
    engine = FakeEngine([])  # the sequences never end
    app = make_app(engine, max_concurrent_requests=4)
    first, second = (
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(host, 1)), base_url="http://server"
        )
        for host in ("10.0.0.1", "10.0.0.2")
    )
    held = [asyncio.ensure_future(first.post(path, json=STREAMS[path])) for _ in range(4)]
    while len(engine.streams) < 4:
        await asyncio.sleep(0)
    probe = {"inputs": "fox", "parameters": {"max_new_tokens": 1}}
    assert (await second.post("/generate", json=probe)).status_code == 429
    held.pop().cancel()
    while not engine.aborted:
        await asyncio.sleep(0)
    assert (await first.post("/generate", json=probe)).status_code == 429
    accepted = asyncio.ensure_future(second.post("/generate", json=probe))
    while len(engine.streams) < 5:
        await asyncio.sleep(0)
        assert not accepted.done(), accepted.result().text
    for task in (accepted, *held):
        task.cancel()
    await asyncio.gather(accepted, *held, return_exceptions=True)
