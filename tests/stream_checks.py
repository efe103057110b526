"""Checks that apply to every event stream: framing, order of events, exactly one final event."""

import json

KEEP_ALIVE = ":"
RESPONSES_TERMINAL_EVENTS = {"response.completed", "response.incomplete", "response.failed"}


def events(text):
    """Check the framing of a body. Returns its events as pairs (name, data), where data is text.
    Comments are skipped.
    """
    parts = text.split("\n\n")
    assert parts.pop() == "", "a stream ends with a blank line"
    found = []
    for part in parts:
        if part == KEEP_ALIVE:
            continue
        *names, data = part.split("\n")
        assert len(names) <= 1, part
        assert all(name.startswith("event: ") for name in names), part
        assert data.startswith("data: "), part
        found.append(
            (names[0].removeprefix("event: ") if names else None, data.removeprefix("data: "))
        )
    return found


def native_events(text):
    """Check a native stream and return its parsed events. Each event contains one token, and their
    indices count from 1. The last event also contains the generated text, or it is an error.
    """
    found = events(text)
    assert all(name is None for name, _ in found)
    parsed = [json.loads(data) for _, data in found]
    assert parsed, "a stream has at least one event"
    is_final = [entry.get("generated_text") is not None or "error" in entry for entry in parsed]
    assert is_final == [False] * (len(parsed) - 1) + [True], "only the last event is final"
    tokens = [entry for entry in parsed if "error" not in entry]
    assert [entry["index"] for entry in tokens] == list(range(1, len(tokens) + 1))
    return parsed


def openai_chunks(text):
    """Check an OpenAI stream and return its parsed chunks. The stream has one `[DONE]` at the end,
    and one finish reason per choice unless there was an error.
    """
    found = events(text)
    assert all(name is None for name, _ in found)
    assert [data == "[DONE]" for _, data in found] == [False] * (len(found) - 1) + [True]
    parsed = [json.loads(data) for _, data in found[:-1]]
    chunks = [entry for entry in parsed if "error" not in entry]
    finished = set()
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["index"] not in finished, "a choice continues after its finish reason"
            if choice["finish_reason"] is not None:
                finished.add(choice["index"])
    if len(chunks) == len(parsed):
        assert finished == {choice["index"] for chunk in chunks for choice in chunk["choices"]}, (
            "a choice has no finish reason"
        )
    assert len({chunk["id"] for chunk in chunks}) <= 1
    return parsed


def responses_events(text):
    """Check a stream of the Responses API and return its parsed events. Sequence numbers start at
    0, and only the last event is a terminal event.
    """
    found = [(name, json.loads(data)) for name, data in events(text)]
    assert all(name == data["type"] for name, data in found)
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    is_final = [name in RESPONSES_TERMINAL_EVENTS for name, _ in found]
    assert is_final == [False] * (len(found) - 1) + [True], "only the last event is final"
    return [data for _, data in found]


def messages_events(text):
    """Check an Anthropic stream and return its parsed events. It begins with its only
    `message_start` and ends with its only `message_stop` or `error`.
    """
    found = [(name, json.loads(data)) for name, data in events(text)]
    assert all(name == data["type"] for name, data in found)
    names = [name for name, _ in found]
    assert names[0] == "message_start"
    assert names.count("message_start") == 1
    is_final = [name in {"message_stop", "error"} for name in names]
    assert is_final == [False] * (len(names) - 1) + [True], "only the last event is final"
    return [data for _, data in found]
