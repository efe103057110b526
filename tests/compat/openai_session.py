"""A session with the `openai` client package. The interpreter of the client environment runs this
file: `python … URL KEY`.
"""

import asyncio
import sys

import openai

PROMPT = "The quick brown fox"
MESSAGES = [{"role": "user", "content": PROMPT}]
GREEDY = {"model": "tgi", "temperature": 0}


def check_completions(client: openai.OpenAI) -> None:
    response = client.completions.create(prompt=PROMPT, max_tokens=5, **GREEDY)
    assert response.choices[0].finish_reason == "length", response
    assert response.usage.completion_tokens == 5, response
    chunks = list(client.completions.create(prompt=PROMPT, max_tokens=5, stream=True, **GREEDY))
    assert "".join(chunk.choices[0].text for chunk in chunks) == response.choices[0].text, chunks
    several = client.completions.create(prompt=[PROMPT, "Hello"], n=2, max_tokens=3, **GREEDY)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3], several
    assert several.choices[0].text == several.choices[1].text != several.choices[2].text, several
    ids = client.completions.create(prompt=[5, 6, 7], max_tokens=2, logprobs=2, **GREEDY)
    assert len(ids.choices[0].logprobs.tokens) == 2, ids
    assert ids.usage.prompt_tokens == 3, ids
    echoed = client.completions.create(prompt=PROMPT, max_tokens=5, echo=True, **GREEDY)
    assert echoed.choices[0].text == PROMPT + response.choices[0].text, echoed


def check_chat(client: openai.OpenAI) -> None:
    response = client.chat.completions.create(
        messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=2, n=2, seed=1, model="m"
    )
    assert response.model == "m", response
    assert len(response.choices) == 2, response
    content = response.choices[0].logprobs.content
    assert len(content) == 4, response
    assert all(len(token.top_logprobs) >= 2 for token in content), response
    text = client.chat.completions.create(
        messages=MESSAGES, max_completion_tokens=4, stop=["~~"], **GREEDY
    )
    options = {"stream_options": {"include_usage": True}}
    chunks = list(
        client.chat.completions.create(
            messages=MESSAGES, max_tokens=4, stream=True, **options, **GREEDY
        )
    )
    streamed = "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)
    assert streamed == text.choices[0].message.content, chunks
    assert chunks[-1].usage.completion_tokens == 4, chunks


def check_accumulated_chat(client: openai.OpenAI) -> None:
    """The client joins the chunks of a stream to the same object as a plain response."""
    options = {"messages": MESSAGES, "max_tokens": 4, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**options, **GREEDY)
    usage = {"stream_options": {"include_usage": True}}
    with client.chat.completions.stream(**options, **usage, **GREEDY) as stream:
        stream.until_done()
        # `get_final_completion` raises an error if the finish reason is `length`.
        snapshot = stream.current_completion_snapshot
    for choice, expected in zip(snapshot.choices, whole.choices, strict=True):
        assert choice.message.to_dict()["role"] == "assistant", snapshot
        assert choice.message.content == expected.message.content, snapshot
        assert choice.finish_reason == expected.finish_reason, snapshot
    # The client joins the log probabilities of the first choice only. It repeats the first token of
    # all other choices.
    scores = [completion.choices[0].logprobs.content for completion in (snapshot, whole)]
    assert scores[0] == scores[1], snapshot
    assert snapshot.usage.total_tokens == whole.usage.total_tokens, snapshot
    ended = client.chat.completions.stream(messages=MESSAGES, max_tokens=300, **GREEDY)
    with ended as stream:
        stream.until_done()
        assert stream.current_completion_snapshot.choices[0].finish_reason in {"stop", "length"}


def check_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert client.models.retrieve(model.id) == model


def check_responses(client: openai.OpenAI) -> None:
    response = client.responses.create(
        input=PROMPT, instructions="Be brief.", max_output_tokens=4, **GREEDY
    )
    assert response.status == "incomplete", response
    assert response.output_text, response
    assert response.usage.output_tokens == 4, response
    events = list(
        client.responses.create(
            input=PROMPT, instructions="Be brief.", max_output_tokens=4, stream=True, **GREEDY
        )
    )
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == response.output_text
    ), events
    assert [event.sequence_number for event in events] == list(range(len(events))), events
    turns = [
        {"role": "user", "content": PROMPT},
        response.output[0].to_dict(),
        {"role": "user", "content": "Go on"},
    ]
    assert client.responses.create(input=turns, max_output_tokens=2, **GREEDY).output_text
    with client.responses.stream(input=PROMPT, max_output_tokens=3, **GREEDY) as stream:
        kinds = [event.type for event in stream]
    assert kinds[-1] == "response.incomplete", kinds
    requested = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    scored = client.responses.create(input=PROMPT, max_output_tokens=3, **requested, **GREEDY)
    with client.responses.stream(
        input=PROMPT, max_output_tokens=3, **requested, **GREEDY
    ) as stream:
        *_, last = stream
    assert last.response.output_text == scored.output_text, last
    [expected] = scored.output[0].content
    [accumulated] = last.response.output[0].content
    assert len(expected.logprobs) == 3, scored
    assert accumulated.to_dict() | {"parsed": None} == expected.to_dict() | {"parsed": None}, last


def check_errors(client: openai.OpenAI) -> None:
    rejected_calls = [
        (
            openai.UnprocessableEntityError,
            lambda: client.chat.completions.create(messages=MESSAGES, temperature=-1, model="m"),
        ),
        (
            openai.UnprocessableEntityError,
            lambda: client.completions.create(prompt=PROMPT, suffix="s", model="m"),
        ),
        (openai.UnprocessableEntityError, lambda: client.completions.create(prompt=[], model="m")),
        (
            openai.BadRequestError,
            lambda: client.responses.create(input="a", previous_response_id="resp_1", model="m"),
        ),
        (
            openai.UnprocessableEntityError,
            lambda: client.completions.create(
                prompt=PROMPT, temperature=-1, stream=True, model="m"
            ),
        ),
        (openai.NotFoundError, lambda: client.models.retrieve("gpt-4")),
        (openai.NotFoundError, lambda: client.embeddings.create(input="a", model="m")),
    ]
    for kind, call in rejected_calls:
        try:
            call()
        except kind as error:
            assert error.body["message"] in str(error), error
            assert error.type == "invalid_request_error", error.body
            continue
        raise AssertionError(f"{kind.__name__} was expected")
    long = [{"role": "user", "content": "fox " * 20_000}]
    for stream in (True, False):
        try:
            client.chat.completions.create(messages=long, stream=stream, model="m")
        except openai.BadRequestError as error:
            assert error.code == "context_length_exceeded", error.body
        else:
            raise AssertionError("a prompt that is too long was accepted")


async def check_async_client(client: openai.AsyncOpenAI) -> None:
    async with client:
        models = await client.models.list()
        assert len(models.data) == 1, models
        stream = await client.chat.completions.create(
            messages=MESSAGES, max_tokens=4, stream=True, **GREEDY
        )
        assert [chunk.choices[0].finish_reason async for chunk in stream] == [
            None,
            None,
            None,
            "length",
        ]


def main() -> None:
    url, key = sys.argv[1:]
    options = {"base_url": f"{url}/v1", "api_key": key, "max_retries": 0}
    with openai.OpenAI(**options) as client:
        check_completions(client)
        check_chat(client)
        check_accumulated_chat(client)
        check_models(client)
        check_responses(client)
        check_errors(client)
    asyncio.run(check_async_client(openai.AsyncOpenAI(**options)))
    print("all checks passed")


main()
