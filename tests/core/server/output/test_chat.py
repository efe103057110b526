"""Reasoning and tool calls on `/v1/chat/completions`, complete and streamed."""

import json

import pytest

from tests.core.server.output.conftest import BODIES
from tests.core.text.output.samples import PARIS, TRICKY, harmony, hermes
from tgi.text.output import OutputFormats
from tgi.types import FinishReason

PATH = "/v1/chat/completions"
BOTH = f"<think>\nHm, so.\n</think>\n\nLet me see.\n{hermes(TRICKY)}\n{hermes('{}', 'now')}"


def joined(chunks, index=0):
    """The message of a choice, joined as clients join it, and its finish reason."""
    message, reason = {}, None
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            for name in ("role", "content", "reasoning_content", "reasoning"):
                if name in delta:
                    message[name] = message.get(name, "") + delta[name]
            for call in delta.get("tool_calls", ()):
                calls = message.setdefault("tool_calls", [])
                if call["index"] == len(calls):
                    assert call["function"]["arguments"] == ""
                    calls.append({"id": call["id"], "type": call["type"], "function": {}})
                    calls[-1]["function"] = dict(call["function"])
                else:
                    assert call["index"] == len(calls) - 1
                    assert call.keys() == {"index", "function"}
                    assert call["function"].keys() == {"arguments"}
                    calls[-1]["function"]["arguments"] += call["function"]["arguments"]
            reason = choice["finish_reason"] or reason
    return message, reason


def without_ids(message):
    calls = message.get("tool_calls", [])
    ids = [call.pop("id") for call in calls]
    assert len(set(ids)) == len(ids)
    assert all(call_id.startswith("call_") for call_id in ids)
    return message


async def respond(send, output, **fields):
    """The message of the response, its finish reason and its usage. The message of a stream must be
    the same.
    """
    whole = await send(PATH, output, **fields)
    *chunks, last = await send(PATH, output, stream=True, **fields)
    [choice] = whole["choices"]
    message = without_ids(choice["message"])
    streamed, reason = joined(chunks)
    assert last["usage"] == whole["usage"]
    assert reason == choice["finish_reason"]
    expected = {k: v for k, v in message.items() if k != "refusal" and v not in (None, "")}
    assert {k: v for k, v in without_ids(streamed).items() if v != ""} == expected
    return message, reason, whole["usage"]


def call(name, arguments="{}"):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


async def test_reasoning_text_and_calls(send):
    message, reason, usage = await respond(send, BOTH)
    assert message == {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "reasoning_content": "Hm, so.",
        "reasoning": "Hm, so.",
        "tool_calls": [call("get_weather", TRICKY), call("now")],
    }
    assert reason == "tool_calls"
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


async def test_a_message_of_calls_has_no_content(send):
    message, reason, usage = await respond(send, hermes(PARIS))
    assert message["content"] is None
    assert message.keys() == {"role", "content", "refusal", "tool_calls"}
    assert reason == "tool_calls"
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_text_alone(send):
    message, reason, _ = await respond(send, "Just text.")
    assert message == {"role": "assistant", "content": "Just text.", "refusal": None}
    assert reason == "stop"


@pytest.mark.parametrize(
    ("output", "calls"),
    [
        ('<tool_call>{"name": "get_weather", "arguments": {"city": "Pa', ['{"city": "Pa']),
        (f"{hermes(PARIS)}<tool_call>", [PARIS]),
    ],
)
async def test_a_cut_output_keeps_the_reason_length(send, output, calls):
    message, reason, _ = await respond(send, output, finish=FinishReason.LENGTH)
    assert reason == "length"
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == calls


async def test_an_incomplete_call_alone_is_no_reason_to_call_tools(send):
    output = '<tool_call>{"name": "get_weather", "arguments": {"city": "Pa'
    message, reason, _ = await respond(send, output)
    assert (len(message["tool_calls"]), reason) == (1, "stop")


async def test_a_call_of_an_unknown_tool_is_text(send):
    output = '<tool_call>{"name": "launch", "arguments": {}}</tool_call>'
    message, reason, _ = await respond(send, output)
    assert (message["content"], reason) == (output, "stop")


async def test_several_choices(send):
    whole = await send(PATH, BOTH, n=3)
    *chunks, _ = await send(PATH, BOTH, n=3, stream=True)
    messages = [without_ids(choice["message"]) for choice in whole["choices"]]
    assert messages == [messages[0]] * 3
    for index in range(3):
        message, reason = joined(chunks, index)
        assert without_ids(message)["tool_calls"] == messages[0]["tool_calls"]
        assert reason == "tool_calls"
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] % 3 == 0


async def test_ids_are_unique_over_all_choices(send):
    whole = await send(PATH, BOTH, n=2)
    ids = [call["id"] for choice in whole["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4


async def test_every_token_has_its_log_probability(send):
    whole = await send(PATH, BOTH, logprobs=True)
    *chunks, _ = await send(PATH, BOTH, logprobs=True, stream=True)
    expected = whole["choices"][0]["logprobs"]["content"]
    streamed = [
        entry
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["logprobs"] is not None
        for entry in choice["logprobs"]["content"]
    ]
    assert streamed == expected
    assert len(expected) == whole["usage"]["completion_tokens"]
    assert b"".join(bytes(entry["bytes"]) for entry in expected[:-1]).decode() == BOTH


async def test_a_stop_string_ends_the_output(send):
    message, reason, _ = await respond(send, f"Ab END {hermes(PARIS)}", stop=["END"])
    assert (message["content"], reason) == ("Ab ", "stop")
    message, reason, _ = await respond(send, f"{hermes(PARIS)} Ab END", stop=["END"])
    assert (message["content"], reason) == ("Ab ", "tool_calls")
    message, reason, _ = await respond(send, hermes(PARIS), stop=["ris"])
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city": "Pa'
    assert reason == "stop"


MISTRAL = OutputFormats.detect("[TOOL_CALLS] [THINK]", {})


async def test_markers_that_are_special_tokens(send, marked_tokenizer):
    output = "[THINK]Hm.[/THINK]So[OTHER].[TOOL_CALLS]get_weather[ARGS]" + PARIS
    whole = await send(PATH, output, formats=MISTRAL, tokenizer=marked_tokenizer)
    *chunks, _ = await send(PATH, output, formats=MISTRAL, tokenizer=marked_tokenizer, stream=True)
    message = whole["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    assert message["content"] == "So."  # other special tokens have no text
    [found] = message["tool_calls"]
    assert found["function"] == {"name": "get_weather", "arguments": PARIS}
    streamed, reason = joined(chunks)
    assert (streamed["content"], streamed["reasoning"], reason) == ("So.", "Hm.", "tool_calls")


@pytest.mark.parametrize("tools", [(), BODIES[PATH]["tools"]])
async def test_channels_are_special_tokens(send, marked_tokenizer, tools):
    output = harmony("analysis", "Hm.") + "<|start|>assistant" + harmony("final", "Hi.", "")
    formats = OutputFormats.detect("<|channel|>", {})
    fields = {"formats": formats, "tokenizer": marked_tokenizer, "tools": list(tools)}
    message, reason, _ = await respond(send, output, **fields)
    assert (message["reasoning"], message["content"], reason) == ("Hm.", "Hi.", "stop")


async def test_text_held_for_a_stop_string_precedes_a_marker(send, marked_tokenizer):
    output = "Ab EN[TOOL_CALLS]get_weather[ARGS]" + PARIS
    fields = {"formats": MISTRAL, "tokenizer": marked_tokenizer, "stop": ["END"]}
    whole = await send(PATH, output, **fields)
    message = whole["choices"][0]["message"]
    assert message["content"] == "Ab EN"
    assert message["tool_calls"][0]["function"]["arguments"] == PARIS
    *chunks, _ = await send(PATH, output, stream=True, **fields)
    assert joined(chunks)[0]["content"] == "Ab EN"


async def test_a_stop_string_does_not_contain_a_marker(send, marked_tokenizer):
    output = "Ab EN[TOOL_CALLS]D c"
    fields = {"formats": MISTRAL, "tokenizer": marked_tokenizer, "stop": ["END"]}
    whole = await send(PATH, output, **fields)
    assert whole["choices"][0]["message"]["content"] == output


async def test_reasoning_that_the_prompt_opened(send):
    template = "{{ messages[0].content }}<think>\n"
    message, _, _ = await respond(send, "Hm.\n</think>\n\nHi.", template=template)
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Hi.")


async def test_chunks_are_sent_as_the_parts_arrive(send):
    *chunks, _ = await send(PATH, BOTH, stream=True)
    assert len(chunks) > 50
    assert [list(chunk["choices"][0]["delta"]) for chunk in chunks[:2]] == [
        ["role", "reasoning_content", "reasoning"],
        ["reasoning_content", "reasoning"],
    ]
    pieces = [
        call["function"]["arguments"]
        for chunk in chunks
        for call in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert len(pieces) > 20
    assert json.loads("".join(pieces[1 : pieces.index("", 1)])) == json.loads(TRICKY)
