"""Parsing of recorded responses: frames, events, times, tokens and errors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.bench.http_exchange import Endpoint, Exchange, read_response
from tgi.bench.stream_result import read_stream

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Request-Id: r7\r\n\r\n"


def chunked(parts):
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def cut(data, places):
    ends = sorted({place % len(data) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def received(data, places=()):
    return Exchange(
        sent=100.0,
        reads=[(100.0 + number, part) for number, part in enumerate(cut(data, places), 1)],
    )


def stream_of(*events, num_tokens=2, places=()):
    body = [
        b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n"
        for event in events
    ]
    return read_stream(received(chunked(body), places), 100.0, num_tokens)


def token(text, finish=None):
    details = {"finish_reason": finish, "generated_tokens": 2} if finish else None
    return {"token": {"text": text}, "details": details}


NATIVE = (token("a"), token("b", "length"))
COMPLETIONS = (
    {"id": "c", "choices": [{"text": "a", "finish_reason": None}]},
    {"choices": [{"text": "b", "finish_reason": "length"}]},
    {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 9}},
    b"[DONE]",
)
CHAT = (
    {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
    {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]},
    {"choices": [{"delta": {"content": "b"}, "finish_reason": None}]},
    {"choices": [{"delta": {}, "finish_reason": "length"}]},
    b"[DONE]",
)


@given(
    parts=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    places=st.lists(st.integers(0, 10_000), max_size=12),
    lines=st.integers(1, 4),
)
def test_chunks_and_reads_may_end_anywhere(parts, places, lines):
    body = b"".join(parts) + b"\n" + b"data: x\n\n" * lines
    raw = chunked([*parts, b"\n", *([b"dat", b"a: x\n\n"] * lines)])
    exchange = received(raw, places)
    response = read_response(exchange)
    assert response.body == body
    ends = [
        sum(len(data) for _, data in exchange.reads[: n + 1]) for n in range(len(exchange.reads))
    ]
    last = [moment for moment, data in response.events() if data == b"x"][-1]
    # The first newline after the last event is followed by another newline, the end of the chunk
    # and the last chunk.
    position = len(raw) - len(b"\n\r\n0\r\n\r\n") - 1
    assert last == exchange.reads[next(n for n, end in enumerate(ends) if end > position)][0]


@pytest.mark.parametrize(
    "events", [NATIVE, COMPLETIONS, CHAT], ids=["native", "completions", "chat"]
)
def test_the_two_tokens_of_every_route_are_counted(events):
    result = stream_of(*events)
    assert (result.error, result.num_tokens, len(result.event_times)) == ("", 2, 2)
    assert result.finish_reason == "length"
    assert result.request_id == "r7"


def test_times_are_those_of_the_reads():
    first, last = (len(chunked([b"data: " + json.dumps(e).encode() + b"\n\n"])) - 5 for e in NATIVE)
    result = stream_of(*NATIVE, places=[first])
    assert result.event_times == [1.0, 2.0]
    assert (result.ttft, result.gaps, result.end_time, result.time_per_output_token) == (
        1.0,
        [1.0],
        2.0,
        1.0,
    )
    assert last


def test_usage_is_the_count_if_events_contain_several_tokens():
    events = ({"choices": [{"text": "ab", "finish_reason": "length"}]}, *COMPLETIONS[2:])
    result = stream_of(*events)
    assert (result.num_tokens, result.num_prompt_tokens, result.is_counted_by_server) == (
        2,
        9,
        True,
    )


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ((), "the stream contains no token"),
        (NATIVE[:1], "after 1 tokens without a finish reason"),
        ((NATIVE[0], {"error": "out of memory", "error_type": "generation"}), "out of memory"),
        ((b"{broken",), "JSONDecodeError"),
        ((b"[1]",), "AttributeError"),
    ],
)
def test_errors_are_reported(events, message):
    assert message in stream_of(*events).error


def test_a_wrong_number_of_tokens_is_an_error_unless_the_model_ended():
    assert "2 tokens instead of 5" in stream_of(*NATIVE, num_tokens=5).error
    assert stream_of(token("a"), token("b", "eos_token"), num_tokens=5).error == ""


@pytest.mark.parametrize("size", [0, 30, len(HEAD) + 4])
def test_an_incomplete_response_is_an_error(size):
    raw = chunked([b"data: " + json.dumps(event).encode() + b"\n\n" for event in NATIVE])
    assert "ValueError" in read_stream(received(raw[:size]) if size else Exchange(), 0.0, 2).error


def test_an_error_status_is_reported_with_its_text():
    raw = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nbusy"
    assert read_stream(received(raw), 0.0, 2).error == "status 429: busy"


def test_addresses():
    endpoint = Endpoint.parse("http://h:1/base/v1/")
    assert (endpoint.host, endpoint.port, endpoint.base) == ("h", 1, "/base")
    assert Endpoint.parse("https://h").port == 443
    assert b"POST /base/x HTTP/1.1\r\nHost: h:1\r\n" in endpoint.request("POST", "/x", {})
    for wrong in ("h:1", "ftp://h", "http://"):
        with pytest.raises(ValueError, match="is not an address such as"):
            Endpoint.parse(wrong)
