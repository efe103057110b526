"""A session with the `langchain-huggingface` client package. The interpreter of the client
environment runs this file: `python … URL`.
"""

import sys

from huggingface_hub.errors import ValidationError
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

PROMPT = "The quick brown fox"


def check_endpoint(url: str) -> None:
    options = {"do_sample": False, "typical_p": None, "return_full_text": False}
    endpoint = HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=5, **options)
    text = endpoint.invoke(PROMPT)
    assert text, text
    assert "".join(endpoint.stream(PROMPT)) == text
    stopped = endpoint.invoke(PROMPT, stop=["quick"])
    assert "quick" not in stopped, stopped


def check_chat(url: str) -> None:
    endpoint = HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=5)
    chat = ChatHuggingFace(llm=endpoint, model_id="tgi", max_tokens=5, temperature=0)
    response = chat.invoke(PROMPT)
    assert response.content, response
    assert response.response_metadata["finish_reason"] == "length", response
    assert "".join(chunk.content for chunk in chat.stream(PROMPT)) == response.content


def check_errors(url: str) -> None:
    endpoint = HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=10_000_000, typical_p=None)
    try:
        endpoint.invoke(PROMPT)
    except ValidationError as error:
        assert "must be <=" in str(error), error
    else:
        raise AssertionError("a request for too many tokens was accepted")


def main() -> None:
    [url] = sys.argv[1:]
    check_endpoint(url)
    check_chat(url)
    check_errors(url)
    print("all checks passed")


main()
