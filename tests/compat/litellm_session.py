"""What users of `litellm` do. Run by the interpreter of its own environment: `python … URL`."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no request to anywhere else

import litellm  # after the variable, which it reads

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
    try:
        litellm.completion(**options | {"max_tokens": 0})
    except (litellm.BadRequestError, litellm.UnprocessableEntityError):
        return
    raise AssertionError(f"{model}: no tokens were accepted")


def main() -> None:
    [url] = sys.argv[1:]
    check("openai/tgi", api_base=f"{url}/v1", api_key="-")
    check("anthropic/tgi", api_base=url, api_key="-")
    print("all checks passed")


main()
