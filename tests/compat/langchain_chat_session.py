"""A session with the packages `langchain-openai` and `langchain-anthropic`. The interpreter of the
client environment runs this file: `python … URL`.
"""

import functools
import operator
import sys

from langchain_anthropic import ChatAnthropic
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI

PROMPT = "The quick brown fox"
OPTIONS = {"model": "tgi", "temperature": 0, "max_tokens": 4, "max_retries": 0}


def check(chat: BaseChatModel) -> None:
    """The joined chunks of a stream are equal to the plain response."""
    whole = chat.invoke(PROMPT)
    joined = functools.reduce(operator.add, chat.stream(PROMPT))
    assert joined.text == whole.text, joined
    assert whole.usage_metadata["output_tokens"] == 4, whole
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert joined.usage_metadata[name] == whole.usage_metadata[name], joined
    for name in ("finish_reason", "stop_reason"):
        assert joined.response_metadata.get(name) == whole.response_metadata.get(name), joined
    for call in (chat.invoke, lambda text: list(chat.stream(text))):
        try:
            call("fox " * 20_000)
        except ContextOverflowError:
            continue
        raise AssertionError("a prompt that is too long was accepted")


def main() -> None:
    [url] = sys.argv[1:]
    openai = {"base_url": f"{url}/v1", "api_key": "-", "stream_usage": True}
    check(ChatOpenAI(**openai, **OPTIONS))
    check(ChatOpenAI(**openai, **OPTIONS, use_responses_api=True))
    check(ChatAnthropic(base_url=url, api_key="-", **OPTIONS))
    scored = ChatOpenAI(**openai, **OPTIONS, logprobs=True, top_logprobs=2)
    joined = functools.reduce(operator.add, scored.stream(PROMPT))
    content = joined.response_metadata["logprobs"]["content"]
    assert content == scored.invoke(PROMPT).response_metadata["logprobs"]["content"], joined
    print("all checks passed")


main()
