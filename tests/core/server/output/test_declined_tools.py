"""Outputs in which the model writes TGI's `no_tool`. A second output without tools follows."""

import pytest

from tests.core.server.output import test_chat, test_messages, test_responses
from tgi.text.output import OutputFormats

NO_TOOL = '{"function": {"_name": "no_tool"}}'
CALL = '{"function": {"_name": "get_weather", "city": "Paris"}}'
TGI = OutputFormats.detect("", {})
CHAT = test_chat.PATH
CHAT_TOOL = {"type": "function", "function": {"name": "no_tool"}}
TEXT = 'Hello! {"function": {"_name": "get_weather"}}'
RESPOND = {
    "chat": test_chat.respond,
    "responses": test_responses.respond,
    "messages": test_messages.respond,
}


async def chat(send, outputs, **fields):
    return await test_chat.respond(send, outputs, formats=TGI, **fields)


async def test_the_second_output_replaces_no_tool(send, tokenizer):
    message, reason, usage = await chat(send, [NO_TOOL, TEXT])
    assert message["content"] == TEXT
    assert "tool_calls" not in message
    assert reason == "stop"
    first, second = send.engines[0].requests
    assert tokenizer.decode(first.prompt_token_ids) == "2 tools\nuser: hi\n"
    assert tokenizer.decode(second.prompt_token_ids) == "user: hi\n"
    assert (first.guidance is None, second.guidance) == (True, None)
    assert usage["prompt_tokens"] == len(second.prompt_token_ids)
    num_tokens = len(tokenizer.encode(TEXT, add_special_tokens=False).ids)
    assert usage["completion_tokens"] == num_tokens + 1


@pytest.mark.parametrize("protocol", RESPOND)
async def test_every_protocol_returns_the_second_output(send, protocol):
    await RESPOND[protocol](send, [NO_TOOL, TEXT], formats=TGI)
    assert [len(engine.requests) for engine in send.engines] == [2, 2]


@pytest.mark.parametrize("output", [CALL, "Hello!", '{"function": {"_name": "no_tools"}}', "{}"])
async def test_other_outputs_are_not_replaced(send, output):
    await chat(send, [output, TEXT])
    assert [len(engine.requests) for engine in send.engines] == [1, 1]


async def test_the_second_output_is_not_replaced(send):
    message, _, _ = await chat(send, [NO_TOOL, NO_TOOL, TEXT])
    assert message["content"] == NO_TOOL


async def test_a_tool_with_this_name_is_called(send):
    message, reason, _ = await chat(send, [NO_TOOL, TEXT], tools=[CHAT_TOOL])
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["no_tool"]
    assert reason == "tool_calls"


async def test_no_tool_is_text_if_there_are_several_choices(send):
    whole = await send(CHAT, [NO_TOOL, NO_TOOL, TEXT], formats=TGI, n=2)
    assert {choice["message"]["content"] for choice in whole["choices"]} == {NO_TOOL}


async def test_the_tokens_of_no_tool_are_not_streamed(send):
    events = await send(CHAT, [NO_TOOL, "Hello!"], formats=TGI, stream=True, logprobs=True)
    tokens = [
        entry["token"]
        for event in events
        for choice in event["choices"]
        for entry in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert "".join(tokens).startswith("Hello!")
