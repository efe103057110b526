"""A session with the fallbacks of LangChain. The interpreter of the client environment runs this
file: `python … BUSY SMALL LARGE KEY`, with the URLs of three servers. `BUSY` rejects every request
with status 429. `SMALL` accepts only short prompts.
"""

import sys
from collections.abc import Callable

from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelRateLimitError,
)
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI

LONG = "fox " * 200
OPTIONS = {"model": "tgi", "temperature": 0, "max_tokens": 3, "max_retries": 0}
Maker = Callable[[str, str], BaseChatModel]


def check(make: Maker, busy: str, small: str, large: str, key: str) -> None:
    """Each error has its own class. A fallback for this class sends the request to `large`."""
    good = make(large, key)
    expected = good.invoke(LONG).text
    cases = (
        (make(busy, key), ModelRateLimitError),
        (make(small, key), ContextOverflowError),
        (make(large, "wrong"), ModelAuthenticationError),
    )
    for model, error in cases:
        for call in (model.invoke, lambda text, model=model: list(model.stream(text))):
            try:
                call(LONG)
            except error:
                continue
            raise AssertionError(f"{model} did not raise {error.__name__}")
        chain = model.with_fallbacks([good], exceptions_to_handle=(error,))
        assert chain.invoke(LONG).text == expected
        assert "".join(chunk.text for chunk in chain.stream(LONG)) == expected


def main() -> None:
    urls, key = sys.argv[1:4], sys.argv[4]
    makers: list[Maker] = [
        lambda url, key: ChatOpenAI(base_url=f"{url}/v1", api_key=key, **OPTIONS),
        lambda url, key: ChatOpenAI(
            base_url=f"{url}/v1", api_key=key, use_responses_api=True, **OPTIONS
        ),
        lambda url, key: ChatAnthropic(base_url=url, api_key=key, **OPTIONS),
    ]
    for make in makers:
        check(make, *urls, key)
    print("all checks passed")


main()
