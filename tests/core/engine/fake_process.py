"""Engine processes that exist only in the test. The clock is virtual."""

import asyncio

from tests.core.server.fake_engine import agreement
from tgi.engine.client import EngineClient
from tgi.engine.memory_limit import KillCounter
from tgi.engine.messages import AbortSequence, AddSequence, EngineStats, StepReport
from tgi.errors import BackendError
from tgi.scheduler.records import SchedulerStats, SequenceOutput
from tgi.types import FinishReason

from .engine_setup import start_message

STEP_SECONDS = 0.1


class FakeProcess:
    """Repeats the prompt of each sequence, one token per step, until `end` is called."""

    def __init__(self, start):
        self.start = start
        self.is_healthy, self.was_killed_from_outside = True, False
        self.last_stats, self.memory_share = None, 0.5
        self.pid = 1
        self.sent = []  # all messages
        self._cause = None
        self._sequences = {}

    def send(self, message):
        self.sent.append(message)
        match message:
            case AddSequence():
                self._sequences[message.sequence_id] = [
                    message.request,
                    len(message.output_token_ids),
                ]
            case AbortSequence():
                self._sequences.pop(message.sequence_id, None)

    def end(self, cause, *, is_from_outside=False):
        self._cause, self.was_killed_from_outside = cause, is_from_outside

    async def run(self, on_message):
        while self._cause is None:
            await asyncio.sleep(STEP_SECONDS)
            outputs = list(self._step())
            if outputs and self._cause is None:
                on_message(
                    StepReport(outputs, EngineStats(SchedulerStats(num_running=len(outputs))))
                )

    def _step(self):
        for number, (request, count) in list(self._sequences.items()):
            prompt = request.prompt_token_ids
            is_last = count + 1 == request.max_new_tokens
            self._sequences[number][1] += 1
            if is_last:
                del self._sequences[number]
            finish = FinishReason.LENGTH if is_last else None
            yield SequenceOutput(number, [prompt[count % len(prompt)]], finish, logprobs=[-0.5])

    async def wait_end(self):
        return self._cause

    async def close(self, *, at_once=False):
        self.end("closed")


class FakeMachine:
    """Starts processes. `failures` is the number of the next startups that fail."""

    def __init__(self, tmp_path, start_seconds=5.0):
        self.processes, self.failures, self.start_seconds = [], 0, start_seconds
        self.num_kills, self.log, self.gauges = 0, [], []
        self.client = EngineClient(
            start_message(tmp_path),
            lambda progress: self.log.append(progress.text),
            launch=self._launch,
            kills=KillCounter(lambda: self.num_kills),
        )
        self.client.add_stats_listener(
            lambda stats: self.gauges.append(
                (stats.scheduler.num_running, stats.scheduler.num_waiting)
            )
        )

    @property
    def process(self):
        return self.processes[-1]

    async def restarted(self):
        """Wait until the next process is ready."""
        count = len(self.processes)
        while len(self.processes) == count or not self.client.is_healthy:
            await asyncio.sleep(self.start_seconds / 4 + STEP_SECONDS)

    async def _launch(self, start, on_progress):
        del on_progress
        await asyncio.sleep(self.start_seconds)
        if self.failures:
            self.failures -= 1
            raise BackendError("The engine process hangs.")
        limit = start.requested.max_batch_total_tokens
        process = FakeProcess(start)
        self.processes.append(process)
        if limit is None:
            return process, agreement()
        cache = agreement().kv_cache
        group = type(cache.groups[0])("full", limit // cache.block_size)
        return process, agreement(kv_cache=type(cache)("paged", cache.block_size, (group,)))
