"""Reasoning and function calls on `/v1/responses`, complete and streamed."""

from tests.core.server.output.conftest import BODIES
from tests.core.text.output.samples import PARIS, TRICKY, hermes
from tgi.types import FinishReason

PATH = "/v1/responses"
BOTH = f"<think>Hm, so.</think>Let me see.{hermes(TRICKY)}{hermes('{}', 'now')} Done."


def items_of(events):
    """The items of a stream, built from their events as clients build them. Checks the order of the
    events, their indices and their ids.
    """
    items, open_item, content = [], None, None
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind in ("created", "in_progress"):
            assert not items
            assert event["response"]["output"] == []
        elif kind == "output_item.added":
            assert open_item is None
            open_item = event["item"]
            assert event["output_index"] == len(items)
            assert open_item["status"] == "in_progress"
            assert not open_item.get("content")
            assert open_item["type"] != "function_call" or open_item["arguments"] == ""
        elif kind in ("completed", "incomplete"):
            assert open_item is None
            assert event["response"]["output"] == items
            return items
        else:
            assert event["output_index"] == len(items)
            if kind == "output_item.done":
                assert event["item"]["id"] == open_item["id"]
                assert event["item"] == open_item | {"status": event["item"]["status"]}
                items.append(event["item"])
                open_item = content = None
                continue
            assert event["item_id"] == open_item["id"]
            content = apply(kind, event, open_item, content)
    raise AssertionError("the stream has no last event")


def apply(kind, event, item, content):
    if kind.startswith(("content_part", "output_text", "reasoning_text")):
        assert event["content_index"] == 0
    if kind == "content_part.added":
        item["content"] = [event["part"]]
        return event["part"]
    if kind == "content_part.done":
        assert event["part"] == content
    elif kind in ("output_text.delta", "reasoning_text.delta"):
        content["text"] += event["delta"]
        assert (kind == "output_text.delta") == (item["type"] == "message")
        content.get("logprobs", []).extend(event.get("logprobs", []))
    elif kind in ("output_text.done", "reasoning_text.done"):
        assert event["text"] == content["text"]
    elif kind == "function_call_arguments.delta":
        item["arguments"] += event["delta"]
    elif kind == "function_call_arguments.done":
        assert (event["name"], event["arguments"]) == (item["name"], item["arguments"])
    else:
        raise AssertionError(kind)
    return content


def short(item):
    match item["type"]:
        case "message":
            assert item["id"].startswith("msg_")
            return "message", item["content"][0]["text"]
        case "reasoning":
            assert item["id"].startswith("rs_")
            assert item["summary"] == []
            assert item["content"][0]["type"] == "reasoning_text"
            return "reasoning", item["content"][0]["text"]
    assert item["id"].startswith("fc_")
    assert item["call_id"].startswith("call_")
    return "call", item["name"], item["arguments"]


async def respond(send, output, **fields):
    """The response, and its items as tuples. The items of the stream must be the same."""
    whole = await send(PATH, output, **fields)
    events = await send(PATH, output, stream=True, **fields)
    items = [short(item) for item in whole["output"]]
    assert [short(item) for item in items_of(events)] == items
    last = events[-1]["response"]
    assert [item["status"] for item in last["output"]] == [
        item["status"] for item in whole["output"]
    ]
    for name in ("status", "usage", "tools", "tool_choice", "incomplete_details"):
        assert last[name] == whole[name]
    return whole, items


async def test_reasoning_text_and_calls(send):
    whole, items = await respond(send, BOTH)
    assert items == [
        ("reasoning", "Hm, so."),
        ("message", "Let me see."),
        ("call", "get_weather", TRICKY),
        ("call", "now", "{}"),
        ("message", "Done."),
    ]
    assert whole["status"] == "completed"
    assert {item["status"] for item in whole["output"]} == {"completed"}
    details = whole["usage"]["output_tokens_details"]
    assert 0 < details["reasoning_tokens"] < whole["usage"]["output_tokens"]


async def test_a_call_alone(send):
    _, items = await respond(send, hermes(PARIS))
    assert items == [("call", "get_weather", PARIS)]


async def test_an_output_without_parts_has_an_empty_message(send):
    _, items = await respond(send, "<think></think>")
    assert items == [("message", "")]


async def test_a_cut_call_is_incomplete(send):
    output = f'{hermes("{}", "now")}<tool_call>{{"name": "get_weather", "arguments": {{"ci'
    whole, items = await respond(send, output, finish=FinishReason.LENGTH)
    assert items == [("call", "now", "{}"), ("call", "get_weather", '{"ci')]
    assert [item["status"] for item in whole["output"]] == ["completed", "incomplete"]
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_log_probabilities_belong_to_the_text(send):
    whole, _ = await respond(send, BOTH, top_logprobs=1)
    messages = [item for item in whole["output"] if item["type"] == "message"]
    for message in messages:
        [part] = message["content"]
        joined = b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]).decode()
        assert joined.strip().removeprefix("</think>") == part["text"]


async def test_the_settings_of_the_request_are_in_the_response(send):
    whole, _ = await respond(send, "Hi.", tool_choice="none", parallel_tool_calls=False)
    names = [tool["name"] for tool in whole["tools"]]
    assert names == [tool["name"] for tool in BODIES[PATH]["tools"]]
    assert (whole["tool_choice"], whole["parallel_tool_calls"]) == ("none", False)
