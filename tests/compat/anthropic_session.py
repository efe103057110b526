"""A session with the `anthropic` client package. The interpreter of the client environment runs
this file: `python … URL KEY`.
"""

import asyncio
import sys

import anthropic

MESSAGES = [{"role": "user", "content": "The quick brown fox"}]
GREEDY = {"model": "tgi", "messages": MESSAGES, "extra_body": {"temperature": 0}}


def check_messages(client: anthropic.Anthropic) -> None:
    response = client.messages.create(max_tokens=4, system="Be brief.", **GREEDY)
    assert response.stop_reason == "max_tokens", response
    assert response.usage.output_tokens == 4, response
    counted = client.messages.count_tokens(model="tgi", messages=MESSAGES, system="Be brief.")
    assert counted.input_tokens == _input_tokens(response.usage), counted
    with client.messages.stream(max_tokens=4, system="Be brief.", **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == response.content[0].text == final.content[0].text, final
    assert final.usage.output_tokens == 4, final
    assert _input_tokens(final.usage) == _input_tokens(response.usage), final
    assert final.stop_reason == response.stop_reason, final
    events = list(client.messages.create(max_tokens=4, stream=True, **GREEDY))
    assert events[-1].type == "message_stop", events
    stopped = client.messages.create(max_tokens=30, stop_sequences=["quick"], **GREEDY)
    assert stopped.stop_sequence in {None, "quick"}, stopped


def _input_tokens(usage: anthropic.types.Usage) -> int:
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def check_models(client: anthropic.Anthropic) -> None:
    [model] = client.models.list()
    assert client.models.retrieve(model.id) == model, model
    assert model.type == "model", model


def check_errors(client: anthropic.Anthropic) -> None:
    for wrong in (
        {"max_tokens": 0},
        {"max_tokens": 3, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ):
        for stream in (False, True):
            try:
                client.messages.create(stream=stream, **wrong, **GREEDY)
            except anthropic.BadRequestError as error:
                assert error.body["error"]["type"] == "invalid_request_error", error.body
            else:
                raise AssertionError(f"{wrong} was accepted")
    long = [{"role": "user", "content": "fox " * 20_000}]
    try:
        client.messages.create(model="tgi", messages=long, max_tokens=3)
    except anthropic.BadRequestError as error:
        assert "prompt is too long" in str(error), error
    else:
        raise AssertionError("a prompt that is too long was accepted")
    try:
        client.models.retrieve("claude")
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error", error.body
    else:
        raise AssertionError("an unknown model was found")


async def check_async_client(client: anthropic.AsyncAnthropic) -> None:
    async with client, client.messages.stream(max_tokens=3, **GREEDY) as stream:
        assert (await stream.get_final_message()).usage.output_tokens == 3


def main() -> None:
    url, key = sys.argv[1:]
    options = {"base_url": url, "api_key": key, "max_retries": 0}
    with anthropic.Anthropic(**options) as client:
        check_messages(client)
        check_models(client)
        check_errors(client)
    asyncio.run(check_async_client(anthropic.AsyncAnthropic(**options)))
    print("all checks passed")


main()
