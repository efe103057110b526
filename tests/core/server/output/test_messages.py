"""Thinking and tool calls on `/v1/messages`, complete and streamed."""

import json

import pytest

from tests.core.text.output.samples import PARIS, TRICKY, harmony, hermes
from tgi.text.output import OutputFormats
from tgi.types import FinishReason

PATH = "/v1/messages"
BOTH = f"<think>Hm, so.</think>Let me see.{hermes(TRICKY)}{hermes('{}', 'now')}"
DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def content_of(events):
    """The content blocks of a stream, built from their events as clients build them. Checks the
    order of the events and their indices.
    """
    blocks, is_open, partial = [], False, ""
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
                is_open, partial = True, ""
                assert blocks[-1].get("input", {}) == {}
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                delta, block = event["delta"], blocks[-1]
                if delta["type"] == "input_json_delta":
                    partial += delta["partial_json"]
                else:
                    block[DELTAS[delta["type"]]] += delta[DELTAS[delta["type"]]]
            case "content_block_stop":
                assert event["index"] == len(blocks) - 1
                is_open = False
                if blocks[-1]["type"] == "tool_use":
                    try:
                        blocks[-1]["input"] = json.loads(partial)
                    except ValueError:
                        blocks[-1]["input"] = partial
            case "message_delta":
                assert not is_open
    return blocks


def short(block):
    match block["type"]:
        case "text":
            return "text", block["text"]
        case "thinking":
            assert block["signature"]
            return "thinking", block["thinking"], block["signature"]
    return "call", block["name"], block["input"]


async def respond(send, output, **fields):
    """The blocks as tuples and the stop reason. The blocks of the stream must be the same."""
    whole = await send(PATH, output, **fields)
    events = await send(PATH, output, stream=True, **fields)
    end = events[-2]
    assert end["delta"]["stop_reason"] == whole["stop_reason"]
    assert end["usage"] == whole["usage"]
    return (
        [short(block) for block in whole["content"]],
        [short(block) for block in content_of(events)],
        whole["stop_reason"],
    )


async def test_thinking_text_and_calls(send):
    blocks, streamed, reason = await respond(send, BOTH)
    (kind, thinking, signature), *others = blocks
    assert (kind, thinking, len(signature)) == ("thinking", "Hm, so.", 44)
    assert others == [
        ("text", "Let me see."),
        ("call", "get_weather", json.loads(TRICKY)),
        ("call", "now", {}),
    ]
    assert streamed == blocks
    assert reason == "tool_use"


async def test_every_thinking_has_its_signature(send):
    output = harmony("analysis", "One.") + harmony("commentary", "Two.")
    output += harmony("analysis", "Three.") + harmony("final", "Four.")
    formats = OutputFormats.detect("<|channel|>", {})
    blocks, streamed, _ = await respond(send, output, formats=formats)
    assert [block[:2] for block in blocks] == [
        ("thinking", "One."),
        ("text", "Two."),
        ("thinking", "Three."),
        ("text", "Four."),
    ]
    assert streamed == blocks
    assert blocks[0][2] != blocks[2][2]


async def test_a_call_alone_has_no_text_block(send):
    blocks, streamed, reason = await respond(send, hermes(PARIS))
    assert blocks == streamed == [("call", "get_weather", {"city": "Paris"})]
    assert reason == "tool_use"


async def test_an_output_without_parts_has_an_empty_text(send):
    blocks, streamed, reason = await respond(send, "<think></think>")
    assert blocks == streamed == [("text", "")]
    assert reason == "end_turn"


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [
        ('{"a": 12, "b": 3', {"a": 12}),
        ('{"a": [1, {"b": 2}], "c": tr', {"a": [1, {"b": 2}]}),
        ('{"a": "x", "b": {"c": 1}', {"a": "x", "b": {"c": 1}}),
        ('{"a": "x', {}),
        ("{", {}),
    ],
)
async def test_the_input_of_a_cut_call_has_its_complete_members(send, arguments, complete):
    output = f'<tool_call>{{"name": "now", "arguments": {arguments}'
    blocks, streamed, reason = await respond(send, output, finish=FinishReason.LENGTH)
    assert blocks == [("call", "now", complete)]
    assert streamed == [("call", "now", arguments)]
    assert reason == "max_tokens"


async def test_a_stop_sequence_is_reported(send):
    fields = {"stop_sequences": ["END"]}
    blocks, _, reason = await respond(send, f"{hermes(PARIS)} Ab END", **fields)
    assert [block[0] for block in blocks] == ["call", "text"]
    assert reason == "stop_sequence"
