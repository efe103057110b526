"""A stream returns its outputs in order, ends once, and aborts once."""

import asyncio

import pytest

from tgi.backend import SamplingParams
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.scheduler import Request, SequenceOutput
from tgi.types import FinishReason

REQUEST = Request("r", [1, 2], SamplingParams(), seed=3, max_new_tokens=4)


@pytest.fixture
def aborted():
    return []


@pytest.fixture
def outputs():
    return OutputQueue()


@pytest.fixture
def stream(outputs, aborted):
    return SequenceStream(7, REQUEST, outputs, aborted.append)


def token(value, finish=None):
    return SequenceOutput(7, [value], finish)


def ids(outputs):
    return [token_id for output in outputs for token_id in output.token_ids]


async def test_outputs_before_and_after_the_wait(stream, outputs):
    stream.put(token(1))
    assert ids(await outputs.get()) == [1]
    waiting = asyncio.ensure_future(outputs.get())
    await asyncio.sleep(0)
    stream.put(token(2))
    stream.put(token(3, FinishReason.LENGTH))
    assert ids(await waiting) == [2, 3]


async def test_sequences_of_one_request_share_a_queue(stream, outputs, aborted):
    other = SequenceStream(8, REQUEST, outputs, aborted.append)
    stream.put(token(1))
    other.put(SequenceOutput(8, [2]))
    assert [output.sequence_id for output in await outputs.get()] == [7, 8]


async def test_a_cancelled_wait_loses_no_output(stream, outputs):
    waiting = asyncio.ensure_future(outputs.get())
    await asyncio.sleep(0)
    waiting.cancel()
    stream.put(token(1))
    await asyncio.gather(waiting, return_exceptions=True)
    assert ids(await outputs.get()) == [1]


async def test_nothing_follows_the_end(stream, outputs, aborted):
    stream.put(SequenceOutput(7, error="broken"))
    stream.put(token(9))
    stream.abort()
    assert [output.error for output in await outputs.get()] == ["broken"]
    assert aborted == []


async def test_abort_reaches_the_engine_once(stream, outputs, aborted):
    stream.abort()
    stream.abort()
    stream.put(token(1))
    outputs.close()
    assert aborted == [7]
    assert await outputs.get() == []


async def test_a_sequence_that_is_cut_off_ends_the_wait(stream, outputs, aborted):
    stream.put(token(1))
    assert ids(await outputs.get()) == [1]
    waiting = asyncio.ensure_future(outputs.get())
    await asyncio.sleep(0)
    stream.cut_off()
    assert await waiting == await outputs.get() == []
    assert aborted == [7]


async def test_a_resumed_sequence_contains_its_tokens(stream):
    stream.put(token(5))
    stream.put(token(6))
    message = stream.to_message()
    assert message.output_token_ids == [5, 6]
    assert message.request.prompt_token_ids == [1, 2]
    assert message.request.seed == 3


async def test_prompt_scores_are_not_repeated_after_a_restart(stream, outputs):
    first, second = ((4, -1.0),), ((5, -2.0),)
    stream.put(SequenceOutput(7, prompt_logprobs=[None, -1.0], prompt_top=[(), first]))
    stream.resume_message()
    stream.put(SequenceOutput(7, prompt_logprobs=[None]))
    stream.put(SequenceOutput(7, prompt_logprobs=[-1.0, -2.0], prompt_top=[first, second]))
    stream.put(token(3, FinishReason.LENGTH))
    received = await outputs.get()
    assert [score for output in received for score in output.prompt_logprobs] == [None, -1.0, -2.0]
    assert [top for output in received for top in output.prompt_top] == [(), first, second]


def test_top_tokens_of_prompts_count_towards_the_size_of_the_queue(stream, outputs):
    sizes = []
    for count in (0, 100):
        before = outputs.num_bytes
        top = [tuple((i, -1.0) for i in range(count))] * 10
        stream.put(SequenceOutput(7, prompt_logprobs=[-1.0] * 10, prompt_top=top))
        sizes.append(outputs.num_bytes - before)
    assert sizes[1] - sizes[0] >= 10 * 100 * 100
