"""Fields of the `/v1` routes that clients join over a stream or read from its end: the role, the
usage and the finish reason.
"""

import pytest

from tests.core.server.fake_engine import FakeEngine
from tests.stream_checks import messages_events, openai_chunks, responses_events
from tgi.scheduler.records import SequenceOutput
from tgi.types import FinishReason

MESSAGES = [{"role": "user", "content": "The quick brown fox"}]
BODIES = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 3},
    "/v1/completions": {"prompt": "The quick brown fox", "max_tokens": 3},
    "/v1/responses": {"input": "The quick brown fox", "max_output_tokens": 3},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 3},
}
NUM_CACHED = 4


async def final(client, path, **changes):
    """The response, or the parts of it at the end of a stream: usage and finish reason."""
    body = BODIES[path] | {"stream_options": {"include_usage": True}} | changes
    response = await client.post(path, json=body)
    if not body.get("stream"):
        parsed = response.json()
    elif path == "/v1/responses":
        parsed = responses_events(response.text)[-1]["response"]
    elif path == "/v1/messages":
        end = messages_events(response.text)[-2]
        parsed = {"usage": end["usage"], **end["delta"]}
    else:
        *_, last, usage = openai_chunks(response.text)
        parsed = {"usage": usage["usage"], "choices": last["choices"]}
    reason = parsed.get("stop_reason") or parsed.get("status")
    return parsed["usage"], reason or parsed["choices"][0]["finish_reason"]


@pytest.mark.parametrize("num_choices", [1, 2])
async def test_only_the_first_chunk_of_a_choice_names_the_assistant(make_client, num_choices):
    body = BODIES["/v1/chat/completions"] | {"stream": True, "n": num_choices}
    async with make_client() as client:
        found = openai_chunks((await client.post("/v1/chat/completions", json=body)).text)
    for index in range(num_choices):
        deltas = [
            choice["delta"]
            for chunk in found
            for choice in chunk["choices"]
            if choice["index"] == index
        ]
        assert deltas[0]["role"] == "assistant"
        assert [list(delta) for delta in deltas[1:]] == [["content"]] * 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
async def test_every_usage_contains_all_counts(make_client, tokenizer, path, stream):
    token = tokenizer.encode("fox").ids[-1]
    outputs = [
        SequenceOutput(0, [token], num_cached_tokens=NUM_CACHED),
        SequenceOutput(0, [token], FinishReason.LENGTH),
    ]
    engine = FakeEngine(outputs)
    async with make_client(engine) as client:
        usage, _ = await final(client, path, stream=stream)
    num_prompt = len(engine.requests[0].prompt_token_ids)
    if path == "/v1/messages":
        assert usage == {
            "input_tokens": num_prompt - NUM_CACHED,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": NUM_CACHED,
            "output_tokens": 2,
        }
        return
    prefix, output = ("input", "output") if path == "/v1/responses" else ("prompt", "completion")
    assert usage[f"{prefix}_tokens"] == num_prompt
    assert usage[f"{output}_tokens"] == 2
    assert usage["total_tokens"] == num_prompt + 2
    assert usage[f"{prefix}_tokens_details"] == {"cached_tokens": NUM_CACHED}


REASONS = {"/v1/responses": ("completed", "incomplete"), "/v1/messages": ("end_turn", "max_tokens")}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
async def test_an_eos_token_at_the_limit_ends_the_text(make_client, tokenizer, path, stream):
    outputs = [SequenceOutput(0, [tokenizer.eos_token_ids[0]], FinishReason.LENGTH)]
    complete, cut = REASONS.get(path, ("stop", "length"))
    async with make_client(FakeEngine(outputs)) as client:
        assert (await final(client, path, stream=stream))[1] == complete
        assert (await final(client, path, stream=stream, ignore_eos=True))[1] == cut


async def test_an_eos_token_at_the_limit_is_the_length_on_native_routes(make_client, tokenizer):
    outputs = [SequenceOutput(0, [tokenizer.eos_token_ids[0]], FinishReason.LENGTH)]
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1, "details": True}}
    async with make_client(FakeEngine(outputs)) as client:
        response = await client.post("/generate", json=body)
    assert response.json()["details"]["finish_reason"] == "length"


@pytest.mark.parametrize("stop", ["", [""], ["", "~~"]])
@pytest.mark.parametrize("path", [path for path in BODIES if path != "/v1/responses"])
async def test_an_empty_stop_string_is_ignored(make_client, path, stop):
    name = "stop_sequences" if path == "/v1/messages" else "stop"
    if name == "stop_sequences" and stop == "":
        stop = [stop]
    async with make_client() as client:
        usage, _ = await final(client, path, **{name: stop})
    assert usage.get("completion_tokens", usage.get("output_tokens")) == 3
