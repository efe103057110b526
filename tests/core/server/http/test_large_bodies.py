"""A body of 2 MB must not block the event loop, on any route."""

import asyncio
import dataclasses
import json
import threading
import time

import pytest

from tests.work_counter import peak_bytes
from tgi.text.stopping import StoppingCriteria

NUM_CHARACTERS = 1_990_000
MAX_TOKENIZED = 1 << 17  # of a text that is longer than any valid prompt, or that is cut
TEXT = "a " * (NUM_CHARACTERS // 2)
MESSAGES = [{"role": "user", "content": TEXT}]
GENERATIONS = {
    "/generate": {"inputs": TEXT},
    "/": {"inputs": TEXT},
    "/generate_stream": {"inputs": TEXT},
    "/v1/completions": {"prompt": TEXT, "max_tokens": 4},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/responses": {"input": TEXT},
    "/invocations": {"inputs": TEXT},
    "/vertex": {"instances": [{"inputs": TEXT}]},
    "/v2/models/tiny/versions/1/infer": {
        "id": "1",
        "outputs": [{"name": "text"}],
        "inputs": [
            {
                "name": "text",
                "shape": [1],
                "datatype": "BYTES",
                "data": list(TEXT[:490_000].encode()),
            }
        ],
    },
}
TOKENIZATIONS = {
    "/tokenize": {"inputs": TEXT[:200_000]},
    "/chat_tokenize": {"messages": [{"role": "user", "content": TEXT[:200_000]}]},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": TEXT[:200_000]}]},
}


class CountingBackend:
    """The tokenizer library, which counts the characters that it tokenizes by thread."""

    def __init__(self, backend):
        self._backend = backend
        self.num_characters = {}

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def _count(self, texts):
        thread = threading.get_ident()
        self.num_characters[thread] = self.num_characters.get(thread, 0) + sum(map(len, texts))

    def encode_batch(self, texts, **options):
        self._count(texts)
        return self._backend.encode_batch(texts, **options)

    def encode_batch_fast(self, texts, **options):
        self._count(texts)
        return self._backend.encode_batch_fast(texts, **options)

    def encode(self, *arguments, **options):
        raise AssertionError("`encode` does not release the GIL")


@pytest.fixture
def counting(tokenizer):
    return CountingBackend(tokenizer.backend)


@pytest.fixture
def tokenizer_of_app(tokenizer, counting):
    return dataclasses.replace(tokenizer, backend=counting)


def post(client, path, body):
    """Post a body that was encoded before, so that the client does not block the loop."""
    headers = {"content-type": "application/json"}
    return client.post(path, content=json.dumps(body).encode(), headers=headers, timeout=60)


async def longest_lag(work):
    """Return the result of `work` and the longest time between two turns of the loop, in ms."""
    longest, last = 0.0, time.perf_counter()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return task.result(), longest * 1e3


@pytest.mark.parametrize("path", GENERATIONS)
async def test_a_text_that_is_too_long_is_not_tokenized(
    make_client, tokenizer_of_app, counting, path, record_property
):
    async with make_client(tokenizer=tokenizer_of_app) as client:
        response, lag = await longest_lag(post(client, path, GENERATIONS[path]))
    record_property("longest_lag_ms", round(lag, 1))
    print(f"{path}: the loop was blocked for at most {lag:.1f} ms")
    assert "more than 48" in response.text
    assert counting.num_characters == {}


@pytest.mark.parametrize("path", TOKENIZATIONS)
async def test_texts_are_tokenized_in_threads(
    make_client, tokenizer_of_app, counting, path, record_property
):
    async with make_client(tokenizer=tokenizer_of_app) as client:
        response, lag = await longest_lag(post(client, path, TOKENIZATIONS[path]))
    record_property("longest_lag_ms", round(lag, 1))
    print(f"{path}: the loop was blocked for at most {lag:.1f} ms")
    assert response.status_code == 200
    assert threading.get_ident() not in counting.num_characters
    assert sum(counting.num_characters.values()) >= 200_000


async def test_the_start_of_a_truncated_text_is_not_tokenized(
    make_client, tokenizer_of_app, tokenizer, counting
):
    body = {"inputs": TEXT, "parameters": {"truncate": 40, "max_new_tokens": 2}}
    async with make_client(tokenizer=tokenizer_of_app) as client:
        response = await client.post("/generate", json=body, timeout=60)
    assert response.status_code == 200
    assert 0 < sum(counting.num_characters.values()) <= MAX_TOKENIZED
    whole = tokenizer.encode(TEXT[-MAX_TOKENIZED:]).ids
    assert tokenizer.encode(TEXT, truncate=40).ids[-39:] == whole[-39:]


class LengthOnly:
    """An encoding of which only the length may be read."""

    def __init__(self, encoding):
        self._length = len(encoding)

    def __len__(self):
        return self._length


async def test_tokens_are_counted_without_a_list_of_their_ids(make_client, tokenizer, counting):
    class Backend(CountingBackend):
        def encode_batch_fast(self, texts, **options):
            return list(map(LengthOnly, super().encode_batch_fast(texts, **options)))

    of_app = dataclasses.replace(tokenizer, backend=Backend(tokenizer.backend))
    body = {"messages": [{"role": "user", "content": "The quick brown fox"}]}
    async with make_client(tokenizer=of_app) as client:
        counted = (await client.post("/v1/messages/count_tokens", json=body)).json()
        tokenized = (await client.post("/chat_tokenize", json=body)).json()
    assert counted == {"input_tokens": len(tokenized["tokenize_response"])}
    assert tokenizer.count("fox fox") == len(tokenizer.encode("fox fox").ids)


@pytest.mark.parametrize("path", TOKENIZATIONS)
async def test_tokenization_takes_a_concurrency_slot_and_the_key(make_client, path):
    body = json.loads(json.dumps(TOKENIZATIONS[path]).replace(TEXT[:200_000], "a b"))
    async with make_client(max_concurrent_requests=0, api_key="k") as client:
        assert (await client.post(path, json=body)).status_code == 401
        response = await client.post(path, json=body, headers={"authorization": "Bearer k"})
    assert response.status_code == 429


@pytest.mark.parametrize("pattern", ["a", "ab", "aab"])
def test_a_long_stop_string_costs_nothing_before_it_occurs(pattern):
    stop = pattern * 160_000
    criteria = StoppingCriteria([stop])
    num_bytes, _ = peak_bytes(lambda: StoppingCriteria([stop]))
    assert num_bytes < 10_000
    assert criteria.push("b" + stop[:-1]) is None
    assert criteria.push("xx" + stop).end == 2 + len(stop)


async def test_a_logit_bias_has_a_limited_number_of_entries(make_client):
    bias = {str(number): 1 for number in range(100_000)}
    body = {"messages": [{"role": "user", "content": "a"}], "logit_bias": bias}
    async with make_client() as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 422
    assert "at most 1024 entries" in response.text


async def test_the_tokens_of_a_long_text_are_those_of_its_parts(make_client):
    text = "wörld ✓ hello " * 5000
    async with make_client() as client:
        tokens = (await client.post("/tokenize", json={"inputs": text})).json()
    data = text.encode()
    assert all(data[t["start"] : t["stop"]].decode(errors="replace") == t["text"] for t in tokens)
    assert tokens[-1]["stop"] == len(data)
