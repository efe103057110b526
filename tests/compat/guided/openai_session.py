"""Structured output and tools with the `openai` client package. The interpreter of the client
environment runs this file: `python … URL`.
"""

import json
import sys

import openai
from pydantic import BaseModel, Field
from weather import QUESTION, TOOL

GREEDY = {"model": "tgi", "temperature": 0}


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    is_member: bool


class GetWeather(BaseModel):
    """Return the weather of a city."""

    city: str = Field(max_length=30)


PERSON = {
    "messages": [{"role": "user", "content": "Write a JSON object with a person."}],
    "max_tokens": 120,
    **GREEDY,
}


def check_parsed_output(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(response_format=Person, **PERSON)
    assert isinstance(parsed.choices[0].message.parsed, Person), parsed
    assert parsed.choices[0].finish_reason == "stop", parsed
    with client.chat.completions.stream(response_format=Person, **PERSON) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == parsed.choices[0].message.parsed, streamed
    response = client.responses.parse(
        input="Write a person.", text_format=Person, max_output_tokens=120, **GREEDY
    )
    assert isinstance(response.output_parsed, Person), response


def check_other_constraints(client: openai.OpenAI) -> None:
    chosen = client.chat.completions.create(
        messages=QUESTION, extra_body={"guided_choice": ["sunny", "rainy"]}, **GREEDY
    )
    assert chosen.choices[0].message.content in {"sunny", "rainy"}, chosen
    matched = client.completions.create(
        prompt="A number:",
        max_tokens=20,
        extra_body={"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}},
        **GREEDY,
    )
    number, letters = matched.choices[0].text.split("-")
    assert len(number) == 3, matched
    assert set(letters) <= set("abcdef"), matched
    anything = client.chat.completions.create(
        response_format={"type": "json_object"}, **{**PERSON, "max_tokens": 60}
    )
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content), dict), anything


def check_automatic_tools(client: openai.OpenAI) -> None:
    """The demo model calls tools without a forced grammar."""
    options = {"messages": QUESTION, "tools": [TOOL], "max_tokens": 60, **GREEDY}
    whole = client.chat.completions.create(**options)
    [choice] = whole.choices
    assert choice.finish_reason == "tool_calls", whole
    [call] = choice.message.tool_calls
    assert call.function.name == "get_weather", whole
    assert json.loads(call.function.arguments) == {"city": "Vienna"}, whole
    assert not choice.message.content, whole
    with client.chat.completions.stream(**options) as stream:
        [streamed] = stream.get_final_completion().choices
    [streamed_call] = streamed.message.tool_calls
    assert streamed.finish_reason == "tool_calls", streamed
    assert streamed_call.function.arguments == call.function.arguments, streamed
    assert streamed_call.id != call.id, "the ids of two calls are equal"
    turns = [
        *QUESTION,
        choice.message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "It is sunny, 21 degrees."},
    ]
    final = client.chat.completions.create(messages=turns, max_tokens=30, **GREEDY)
    assert final.choices[0].message.content, final


def check_required_tools(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(GetWeather)
    for choice in ("required", {"type": "function", "function": {"name": "GetWeather"}}):
        options = {"messages": QUESTION, "tools": [tool], "tool_choice": choice, **GREEDY}
        parsed = client.chat.completions.parse(max_tokens=80, **options)
        [call] = parsed.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments, GetWeather), parsed
        chunks = list(client.chat.completions.create(max_tokens=80, stream=True, **options))
        deltas = [
            part
            for chunk in chunks
            for choice in chunk.choices
            for part in choice.delta.tool_calls or []
        ]
        assert deltas[0].function.name == "GetWeather", chunks
        assert all(delta.function.name is None for delta in deltas[1:]), chunks
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
        assert json.loads(arguments) == json.loads(call.function.arguments), chunks
        assert chunks[-1].choices[0].finish_reason == "tool_calls", chunks
    none = client.chat.completions.create(
        messages=QUESTION, tools=[TOOL], tool_choice="none", max_tokens=20, **GREEDY
    )
    assert none.choices[0].message.content, none
    assert not none.choices[0].message.tool_calls, none


def check_responses(client: openai.OpenAI) -> None:
    tool = {"type": "function", "strict": False, **TOOL["function"]}
    options = {
        "input": QUESTION[0]["content"],
        "tools": [tool],
        "max_output_tokens": 60,
        **GREEDY,
    }
    response = client.responses.create(**options)
    [call] = [item for item in response.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Vienna"}, response
    with client.responses.stream(**options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds, kinds
    [streamed] = [item for item in final.output if item.type == "function_call"]
    assert streamed.arguments == call.arguments, final
    turns = [
        {"role": "user", "content": QUESTION[0]["content"]},
        {
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        },
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."},
    ]
    assert client.responses.create(
        input=turns, tools=[tool], max_output_tokens=20, **GREEDY
    ).output, "the response to a tool result is empty"


def check_errors(client: openai.OpenAI) -> None:
    wrong = [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 3}}},
        {"response_format": {"type": "yaml"}},
        {"extra_body": {"guided_regex": "(a"}},
        {"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}},
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
        {
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "missing"}},
        },
    ]
    for fields in wrong:
        for stream in (False, True):
            try:
                client.chat.completions.create(messages=QUESTION, stream=stream, **fields, **GREEDY)
            except (openai.UnprocessableEntityError, openai.BadRequestError) as error:
                assert error.body["message"], error
                continue
            raise AssertionError(f"{fields} was accepted")


def main() -> None:
    [url] = sys.argv[1:]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        check_parsed_output(client)
        check_other_constraints(client)
        check_automatic_tools(client)
        check_required_tools(client)
        check_responses(client)
        check_errors(client)
    print("all checks passed")


main()
