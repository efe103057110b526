"""A tool loop with the `anthropic` client package. The interpreter of the client environment runs
this file: `python … URL`.
"""

import sys

import anthropic

TOOL = {
    "name": "get_weather",
    "description": "",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
QUESTION = [{"role": "user", "content": "What is the weather like in Vienna?"}]
OPTIONS = {"model": "tgi", "max_tokens": 60, "extra_body": {"temperature": 0}}


def check_tool_loop(client: anthropic.Anthropic) -> None:
    first = client.messages.create(messages=QUESTION, tools=[TOOL], **OPTIONS)
    assert first.stop_reason == "tool_use", first
    [call] = first.content
    assert call.type == "tool_use", first
    assert call.name == "get_weather", first
    assert call.input == {"city": "Vienna"}, first
    with client.messages.stream(messages=QUESTION, tools=[TOOL], **OPTIONS) as stream:
        streamed = stream.get_final_message()
    [streamed_call] = streamed.content
    assert (streamed_call.name, streamed_call.input) == (call.name, call.input), streamed
    assert streamed.stop_reason == "tool_use", streamed
    for result in ("It is sunny.", [{"type": "text", "text": "It is sunny."}]):
        turns = [
            *QUESTION,
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": result}],
            },
        ]
        last = client.messages.create(messages=turns, tools=[TOOL], **OPTIONS)
        assert last.content, last
    counted = client.messages.count_tokens(model="tgi", messages=QUESTION, tools=[TOOL])
    bare = client.messages.count_tokens(model="tgi", messages=QUESTION)
    assert counted.input_tokens > bare.input_tokens, counted


def check_choices(client: anthropic.Anthropic) -> None:
    hello = [{"role": "user", "content": "Hello!"}]
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        forced = client.messages.create(messages=hello, tools=[TOOL], tool_choice=choice, **OPTIONS)
        assert [block.type for block in forced.content] == ["tool_use"], forced
        assert isinstance(forced.content[0].input.get("city"), str), forced
    none = client.messages.create(
        messages=QUESTION, tools=[TOOL], tool_choice={"type": "none"}, **OPTIONS
    )
    assert [block.type for block in none.content] == ["text"], none


def check_errors(client: anthropic.Anthropic) -> None:
    wrong = [
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "missing"}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{**TOOL, "input_schema": {"type": "foo"}}], "tool_choice": {"type": "any"}},
    ]
    for fields in wrong:
        for stream in (False, True):
            try:
                client.messages.create(messages=QUESTION, stream=stream, **fields, **OPTIONS)
            except anthropic.BadRequestError as error:
                assert error.body["error"]["type"] == "invalid_request_error", error.body
                continue
            raise AssertionError(f"{fields} was accepted")


def main() -> None:
    [url] = sys.argv[1:]
    with anthropic.Anthropic(base_url=url, api_key="-", max_retries=0) as client:
        check_tool_loop(client)
        check_choices(client)
        check_errors(client)
    print("all checks passed")


main()
