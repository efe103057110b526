"""A session with the `text-generation` client package. The interpreter of the client environment
runs this file: `python … URL`.
"""

import asyncio
import sys

from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError

PROMPT = "The quick brown fox"


def check_client(url: str) -> None:
    client = Client(url)
    response = client.generate(PROMPT, max_new_tokens=5)
    assert response.details.generated_tokens == 5, response
    assert response.details.finish_reason == "length", response
    assert len(response.details.tokens) == 5, response
    assert (
        client.generate(PROMPT, max_new_tokens=5, return_full_text=True).generated_text
        == PROMPT + response.generated_text
    )
    events = list(client.generate_stream(PROMPT, max_new_tokens=5))
    assert "".join(event.token.text for event in events) == response.generated_text, events
    assert events[-1].generated_text == response.generated_text, events
    assert events[-1].details.generated_tokens == 5, events
    sampled = client.generate(
        PROMPT, max_new_tokens=3, do_sample=True, temperature=0.5, top_k=5, top_p=0.9, seed=3
    )
    assert sampled.details.seed == 3, sampled
    chat = client.chat([{"role": "user", "content": "Hello"}], max_tokens=3)
    assert chat.usage["completion_tokens"] == 3, chat


def check_errors(url: str) -> None:
    client = Client(url)
    try:
        client.generate(PROMPT, max_new_tokens=10_000_000)
    except ValidationError as error:
        assert "Input validation error: `inputs` tokens + `max_new_tokens` must be <=" in str(
            error
        ), error
    else:
        raise AssertionError("a request for too many tokens was accepted")


async def check_async_client(url: str) -> None:
    # `chat(stream=True)` is not tested: the client requires `tool_calls` in every delta, so it
    # cannot parse the chunks of any server, not even TGI's.
    client = AsyncClient(url)
    response = await client.generate(PROMPT, max_new_tokens=5)
    events = [event async for event in client.generate_stream(PROMPT, max_new_tokens=5)]
    assert events[-1].generated_text == response.generated_text, events


def main() -> None:
    [url] = sys.argv[1:]
    check_client(url)
    check_errors(url)
    asyncio.run(check_async_client(url))
    print("all checks passed")


main()
