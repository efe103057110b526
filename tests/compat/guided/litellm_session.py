"""Structured output and tools with the `litellm` client package. The interpreter of the client
environment runs this file: `python … URL`.
"""

import json
import sys

import litellm
from pydantic import BaseModel, Field
from weather import QUESTION, TOOL


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


def main() -> None:
    [url] = sys.argv[1:]
    options = {"temperature": 0, "max_tokens": 80, "api_key": "-"}
    for model, base in (("openai/tgi", f"{url}/v1"), ("anthropic/tgi", url)):
        options |= {"model": model, "api_base": base}
        whole = litellm.completion(messages=QUESTION, tools=[TOOL], **options)
        [call] = whole.choices[0].message.tool_calls
        assert whole.choices[0].finish_reason == "tool_calls", whole
        assert json.loads(call.function.arguments) == {"city": "Vienna"}, whole
        chunks = list(litellm.completion(messages=QUESTION, tools=[TOOL], stream=True, **options))
        rebuilt = litellm.stream_chunk_builder(chunks, messages=QUESTION)
        [streamed] = rebuilt.choices[0].message.tool_calls
        assert streamed.function.arguments == call.function.arguments, rebuilt
    options |= {"model": "openai/tgi", "api_base": f"{url}/v1"}
    written = litellm.completion(
        messages=[{"role": "user", "content": "Write a person."}],
        response_format=Person,
        **options,
    )
    Person.model_validate_json(written.choices[0].message.content)
    print("all checks passed")


main()
