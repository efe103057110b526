"""A session with the fallback model of `pydantic-ai`. The interpreter of the client environment
runs this file: `python … BUSY SMALL LARGE KEY`, with the URLs of three servers. `BUSY` rejects
every request with status 429. `SMALL` accepts only short prompts.
"""

import asyncio
import sys
from collections.abc import Callable

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

LONG = "fox " * 200
SETTINGS = {"max_tokens": 3, "temperature": 0}
Maker = Callable[[str, str], Model]


async def text_of(model: Model, *, stream: bool) -> str:
    agent = Agent(model, model_settings=SETTINGS)
    if not stream:
        return (await agent.run(LONG)).output
    async with agent.run_stream(LONG) as result:
        return await result.get_output()


async def check(make: Maker, busy: str, small: str, large: str, key: str) -> None:
    """Each error has its status and names its cause. The fallback model uses the next server."""
    good = make(large, key)
    expected = await text_of(good, stream=False)
    assert expected
    cases = (
        (make(busy, key), 429, "overloaded"),
        (make(small, key), 400, "context_length_exceeded"),
        (make(large, "wrong"), 401, "key"),
    )
    for model, status, words in cases:
        for stream in (False, True):
            try:
                await text_of(model, stream=stream)
            except ModelHTTPError as error:
                assert error.status_code == status, error
                assert words in str(error.body), error.body
            else:
                raise AssertionError(f"{model} returned a response")
            found = await text_of(FallbackModel(model, good), stream=stream)
            assert found == expected, found


async def run() -> None:
    urls, key = sys.argv[1:4], sys.argv[4]

    def openai(url: str, key: str) -> OpenAIProvider:
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        return OpenAIProvider(openai_client=client)

    makers: list[Maker] = [
        lambda url, key: OpenAIChatModel("tgi", provider=openai(url, key)),
        lambda url, key: OpenAIResponsesModel("tgi", provider=openai(url, key)),
    ]
    for make in makers:
        await check(make, *urls, key)


asyncio.run(run())
print("all checks passed")
