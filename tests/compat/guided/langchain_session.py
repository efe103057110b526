"""Structured output and tools with `langchain-openai` and `langchain-anthropic`. The interpreter of
the client environment runs this file: `python … URL`.
"""

import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "What is the weather like in Vienna?"


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


class get_weather(BaseModel):  # noqa: N801 - the class name is the name of the tool
    """Return the weather of a city."""

    city: str = Field(max_length=30)


def check(chat: ChatOpenAI | ChatAnthropic, methods: tuple[str, ...]) -> None:
    for method in methods:
        person = chat.with_structured_output(Person, method=method).invoke("Write a person.")
        assert isinstance(person, Person), (method, person)
    tools = chat.bind_tools([get_weather])
    message = tools.invoke(QUESTION)
    [call] = message.tool_calls
    assert call["name"] == "get_weather", message
    assert call["args"] == {"city": "Vienna"}, message
    chunks = list(tools.stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.tool_calls[0]["args"] == call["args"], whole
    result = ToolMessage("It is sunny.", tool_call_id=call["id"])
    final = tools.invoke([HumanMessage(QUESTION), message, result])
    assert final.content or final.tool_calls, final


def main() -> None:
    [url] = sys.argv[1:]
    check(
        ChatOpenAI(model="tgi", base_url=f"{url}/v1", api_key="-", temperature=0, max_tokens=80),
        ("json_schema", "function_calling", "json_mode")[:2],
    )
    check(
        ChatAnthropic(model="tgi", base_url=url, api_key="-", temperature=0, max_tokens=80),
        ("function_calling",),
    )
    print("all checks passed")


main()
