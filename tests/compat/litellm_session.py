"""A session with the `litellm` client package. The interpreter of the client environment runs this
file: `python … URL`.
"""

import os
import sys

# litellm reads this variable at import. With it, litellm does not fetch its price list.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

MESSAGES = [{"role": "user", "content": "The quick brown fox"}]


def check(model: str, **where: str) -> None:
    options = {
        "model": model,
        "messages": MESSAGES,
        "max_tokens": 4,
        "temperature": 0,
        "max_retries": 0,
        **where,
    }
    response = litellm.completion(**options)
    assert response.choices[0].finish_reason == "length", response
    assert response.usage.completion_tokens == 4, response
    chunks = list(litellm.completion(stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == response.choices[0].message.content, chunks
    joined = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert joined.choices[0].message["role"] == "assistant", joined
    assert joined.choices[0].message.content == text, joined
    assert joined.choices[0].finish_reason == "length", joined
    long = [{"role": "user", "content": "fox " * 20_000}]
    for stream in (True, False):
        try:
            litellm.completion(**options | {"messages": long}, stream=stream)
        except litellm.ContextWindowExceededError:
            continue
        raise AssertionError(f"{model}: a prompt that is too long was accepted")
    try:
        litellm.completion(**options | {"max_tokens": 0})
    except (litellm.BadRequestError, litellm.UnprocessableEntityError):
        return
    raise AssertionError(f"{model}: `max_tokens` 0 was accepted")


def main() -> None:
    [url] = sys.argv[1:]
    check("openai/tgi", api_base=f"{url}/v1", api_key="-")
    check("anthropic/tgi", api_base=url, api_key="-")
    print("all checks passed")


main()
