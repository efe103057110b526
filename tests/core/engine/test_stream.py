"""A stream hands out its news in order, ends once, and aborts once."""

import asyncio

import pytest

from tgi.backend import SamplingParams
from tgi.engine.stream import SequenceRequest, SequenceStream
from tgi.scheduler import SequenceOutput, TokenOutput
from tgi.types import FinishReason

REQUEST = SequenceRequest("r", [1, 2], SamplingParams(), seed=3, max_new_tokens=4)


@pytest.fixture
def aborted():
    return []


@pytest.fixture
def stream(aborted):
    return SequenceStream(7, REQUEST, aborted.append)


def token(value, finish=None):
    return SequenceOutput(7, [TokenOutput(value)], finish)


async def test_news_before_and_after_the_wait(stream):
    stream.put(token(1))

    async def later():
        await asyncio.sleep(0)
        stream.put(token(2))
        stream.put(token(3, FinishReason.LENGTH))

    task = asyncio.create_task(later())
    received = [output.tokens[0].token_id async for output in stream]
    await task
    assert received == [1, 2, 3]


async def test_nothing_follows_the_end(stream, aborted):
    stream.put(SequenceOutput(7, error="broken"))
    stream.put(token(9))
    stream.abort()
    assert [output.error async for output in stream] == ["broken"]
    assert aborted == []


async def test_abort_reaches_the_engine_once_and_ends_the_wait(stream, aborted):
    waiting = asyncio.ensure_future(anext(stream, None))
    await asyncio.sleep(0)
    stream.abort()
    stream.abort()
    assert await waiting is None
    assert aborted == [7]


async def test_a_resumed_sequence_knows_its_tokens(stream):
    stream.put(token(5))
    stream.put(token(6))
    message = stream.to_message().request
    assert message.output_token_ids == [5, 6]
    assert message.prompt_token_ids == [1, 2]
    assert message.seed == 3


async def test_prompt_scores_are_not_repeated_after_a_restart(stream):
    stream.put(SequenceOutput(7, prompt_logprobs=[None, -1.0]))
    stream.resume_message()
    stream.put(SequenceOutput(7, prompt_logprobs=[None]))
    stream.put(SequenceOutput(7, prompt_logprobs=[-1.0, -2.0]))
    stream.put(token(3, FinishReason.LENGTH))
    assert [score async for output in stream for score in output.prompt_logprobs] == [None, -1.0, -2.0]
