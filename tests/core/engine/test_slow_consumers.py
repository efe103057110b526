"""A sequence waits while its consumer reads nothing. The unread outputs have a limited size, no
token is lost, and other sequences continue.
"""

import asyncio

import pytest

from tests.work_counter import peak_bytes
from tgi.backend import SamplingParams
from tgi.engine.messages import AbortSequence, AddSequence
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.scheduler import Request, SequenceOutput
from tgi.types import FinishReason

from .engine_setup import SubmittedSequence, request
from .fake_process import STEP_SECONDS
from .test_supervision import collect, supervised

MAX_BYTES = 1 << 20
REQUEST = Request("r", [1, 2], SamplingParams(), seed=3, max_new_tokens=4)


def make_output(kind, number):
    """An output as it is decoded from a message, in which all values are different objects."""
    logprobs, top, scores, num_tokens = [], [], [], 1
    if kind == "several tokens":
        num_tokens = 8
    if kind != "plain":
        logprobs = [-0.5 - number - i for i in range(num_tokens)]
    if kind == "top tokens":
        top = [tuple((1000 + number + i, -1.5 - number - i) for i in range(5))]
    if kind == "prompt":
        num_tokens, scores = 0, [-2.5 - number - i for i in range(256)]
    ids = [1000 + number * 8 + i for i in range(num_tokens)]
    return SequenceOutput(7, ids, None, None, 0, 0, scores, logprobs, top)


KINDS = ["plain", "logprobs", "top tokens", "several tokens", "prompt"]


@pytest.mark.parametrize("kind", KINDS)
def test_unread_outputs_have_a_limited_size(kind):
    """The limit applies to the estimated size. The memory that Python allocates is close to it."""

    def fill():
        queue = OutputQueue()
        stream = SequenceStream(7, REQUEST, queue, lambda _: None, lambda _: True)
        number = 0
        while not stream.is_paused:
            stream.put(make_output(kind, number))
            number += 1
        return queue, number

    kept = []
    _, num_bytes = peak_bytes(lambda: kept.append(fill()))
    [(queue, number)] = kept
    print(f"{kind}: {number} outputs, estimated {queue.num_bytes}, allocated {num_bytes} bytes")
    assert MAX_BYTES < queue.num_bytes < 1.1 * MAX_BYTES
    assert 0.4 * MAX_BYTES < num_bytes < 1.25 * MAX_BYTES


async def test_a_backlog_is_read_in_small_parts():
    queue = OutputQueue()
    stream = SequenceStream(7, REQUEST, queue, lambda _: None)
    for number in range(1000):
        stream.put(make_output("top tokens", number))
    sizes, ids = [], []
    while queue.num_bytes:
        outputs = await queue.get()
        sizes.append(len(outputs))
        ids += [token for output in outputs for token in output.token_ids]
    assert max(sizes) <= 256
    assert ids == [1000 + number * 8 for number in range(1000)]


class SlowConsumer:
    """Submits a sequence, and reads its outputs only when the test says so."""

    def __init__(self, client, asked):
        self.queue = OutputQueue()
        self.stream = client.submit(asked, self.queue)
        self.outputs = []

    async def read(self):
        self.outputs += await self.queue.get()

    async def wait_pause(self):
        while not self.stream.is_paused:
            assert not self.stream.is_finished
            await asyncio.sleep(50 * STEP_SECONDS)

    async def read_to_the_end(self):
        while not self.outputs or self.outputs[-1].finish_reason is None:
            await self.read()

    @property
    def ids(self):
        return [token for output in self.outputs for token in output.token_ids]


LONG = 12_000


def test_a_sequence_waits_for_its_consumer_and_loses_no_token(tmp_path):
    async def scenario(machine):
        slow = SlowConsumer(machine.client, request([5, 6, 7], LONG))
        num_pauses = 0
        while slow.stream.output_token_ids[LONG - 3000 :] == []:
            await slow.wait_pause()
            num_pauses += 1
            num_tokens = len(slow.stream.output_token_ids)
            await asyncio.sleep(500 * STEP_SECONDS)
            assert len(slow.stream.output_token_ids) <= num_tokens + 1
            assert slow.queue.num_bytes < 1.1 * MAX_BYTES
            while slow.queue.num_bytes:
                assert slow.stream.is_paused
                await slow.read()
            reading = asyncio.ensure_future(slow.read())
            await asyncio.sleep(3 * STEP_SECONDS)
            assert reading.done()
        await slow.read_to_the_end()
        assert num_pauses >= 3
        assert slow.ids == ([5, 6, 7] * LONG)[:LONG]
        assert {output.sequence_id for output in slow.outputs} == {slow.stream.sequence_id}
        assert machine.client.num_unfinished == 0

    supervised(scenario)(tmp_path)


def test_other_sequences_continue_while_one_waits(tmp_path):
    async def scenario(machine):
        slow = SlowConsumer(machine.client, request([5], LONG))
        await slow.wait_pause()
        tokens, last = await collect(SubmittedSequence(machine.client, request([8], 50)))
        assert tokens == [8] * 50
        assert last.finish_reason is FinishReason.LENGTH
        assert slow.stream.is_paused
        slow.stream.abort()
        assert machine.client.num_unfinished == 0
        assert machine.process._sequences == {}

    supervised(scenario)(tmp_path)


def test_a_waiting_sequence_survives_a_restart_of_the_engine(tmp_path):
    async def scenario(machine):
        slow = SlowConsumer(machine.client, request([5, 6], LONG))
        await slow.wait_pause()
        machine.process.end("the engine process was ended by SIGKILL", is_from_outside=True)
        await machine.restarted()
        assert slow.stream.is_paused
        assert machine.process._sequences == {}
        await slow.read_to_the_end()
        assert slow.ids == [5, 6] * (LONG // 2)
        assert machine.process._sequences == {}

    supervised(scenario)(tmp_path)


def test_outputs_from_before_the_pause_are_not_repeated(tmp_path):
    """The outputs that the engine sent before it processed the abort arrive after the sequence has
    continued.
    """

    async def scenario(machine):
        slow = SlowConsumer(machine.client, request([5, 6], LONG))
        sent = []
        machine.process.send = sent.append  # the process receives neither the abort nor the rest
        await slow.wait_pause()
        while slow.queue.num_bytes:
            await slow.read()
        reading = asyncio.ensure_future(slow.read())
        await asyncio.sleep(5 * STEP_SECONDS)  # the process still sends under the old id
        reading.cancel()
        aborted, added = sent
        assert isinstance(aborted, AbortSequence)
        assert isinstance(added, AddSequence)
        assert added.sequence_id != slow.stream.sequence_id
        assert added.output_token_ids == ([5, 6] * LONG)[: len(added.output_token_ids)]
        assert len(slow.stream.output_token_ids) == len(added.output_token_ids)

    supervised(scenario)(tmp_path)
