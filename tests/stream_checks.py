"""What holds for every stream, whatever it carries: framing, order, and exactly one end."""

import json

KEEP_ALIVE = ":"
RESPONSES_ENDS = {"response.completed", "response.incomplete", "response.failed"}


def events(text):
    """The events of a body as (name, data) with data still in text. Checks the framing; comments
    are left out.
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
    """Objects of a native stream: one event per token counted from 1, the last one with the text,
    or one error at the end.
    """
    found = events(text)
    assert all(name is None for name, _ in found)
    told = [json.loads(data) for _, data in found]
    assert told, "a stream has at least one event"
    ends = [entry.get("generated_text") is not None or "error" in entry for entry in told]
    assert ends == [False] * (len(told) - 1) + [True], "exactly one end, and it comes last"
    tokens = [entry for entry in told if "error" not in entry]
    assert [entry["index"] for entry in tokens] == list(range(1, len(tokens) + 1))
    return told


def openai_chunks(text):
    """Chunks of an OpenAI stream: one `[DONE]` at the end, one finish reason per choice unless
    there was an error.
    """
    found = events(text)
    assert all(name is None for name, _ in found)
    assert [data == "[DONE]" for _, data in found] == [False] * (len(found) - 1) + [True]
    told = [json.loads(data) for _, data in found[:-1]]
    chunks = [entry for entry in told if "error" not in entry]
    finished = set()
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["index"] not in finished, "a choice goes on after its end"
            if choice["finish_reason"] is not None:
                finished.add(choice["index"])
    if len(chunks) == len(told):
        assert finished == {choice["index"] for chunk in chunks for choice in chunk["choices"]}, (
            "a choice has no end"
        )
    assert len({chunk["id"] for chunk in chunks}) <= 1
    return told


def responses_events(text):
    """Events of a Responses stream: sequence numbers from 0, one terminal event, and it comes
    last.
    """
    found = [(name, json.loads(data)) for name, data in events(text)]
    assert all(name == data["type"] for name, data in found)
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    ends = [name in RESPONSES_ENDS for name, _ in found]
    assert ends == [False] * (len(found) - 1) + [True], "exactly one end, and it comes last"
    return [data for _, data in found]


def messages_events(text):
    """Events of an Anthropic stream: one start, one stop or one error, and it comes last."""
    found = [(name, json.loads(data)) for name, data in events(text)]
    assert all(name == data["type"] for name, data in found)
    names = [name for name, _ in found]
    assert names[0] == "message_start"
    assert names.count("message_start") == 1
    ends = [name in {"message_stop", "error"} for name in names]
    assert ends == [False] * (len(names) - 1) + [True], "exactly one end, and it comes last"
    return [data for _, data in found]
