"""A worker with random behaviour: it samples any number of tokens per step, and may fail or crash.

Three steps are in flight, and rows, steps and engines fail at random. The tokens repeat the prompt,
so every stream is predictable. A stream may only end early, with an error.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.engine.engine_setup import SPEC, SubmittedSequence, request, start_message
from tgi.backend import EngineConfig, RequestedLimits, SamplingParams
from tgi.engine.client import EngineClient
from tgi.engine.core import EngineCore
from tgi.engine.messages import AbortSequence, Shutdown
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.doubles.null_script import NullJumps, NullScript
from tgi.testing.doubles.null_worker import NullWorker
from tgi.testing.strict_worker import StrictWorker
from tgi.types import FinishReason

EOS = 7
FEATURES = (*NullScript().features, "multi_token")
MAX_CRASHES = 50


def echo(prompt, max_new_tokens):
    """The whole output of a request, and its finish reason."""
    tokens = [prompt[i % len(prompt)] for i in range(max_new_tokens)]
    if EOS in tokens[:-1]:
        return tokens[: tokens.index(EOS) + 1], FinishReason.EOS_TOKEN
    return tokens, FinishReason.LENGTH


@dataclass
class Frontend:
    """Sends and aborts sequences, and records every stream, as an engine's client does."""

    rng: random.Random
    num_sequences: int
    streams: list[SequenceStream] = field(default_factory=list)
    outbox: list = field(default_factory=list)
    ends: dict = field(default_factory=dict)
    aborted: set[int] = field(default_factory=set)

    def resume(self):
        """Send every unfinished sequence to a new engine."""
        self.outbox = [stream.resume_message() for stream in self.streams if not stream.is_finished]

    def receive(self, *, wait):
        while len(self.streams) < self.num_sequences and (wait or self.rng.random() < 0.5):
            self._send_new()
            wait = False
        live = [stream for stream in self.streams if not stream.is_finished]
        if live and self.rng.random() < 0.05:
            self.rng.choice(live).abort()
        messages, self.outbox = self.outbox, []
        return messages or ([Shutdown()] if wait else [])

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, report):
        for output in report.outputs:
            stream = self.streams[output.sequence_id]
            if output.sequence_id in self.aborted:
                continue
            assert not stream.is_finished, "there is output after the end"
            stream.put(output)
            if stream.is_finished:
                self.ends[output.sequence_id] = output.error or output.finish_reason

    def _send_new(self):
        number = len(self.streams)
        prompt = [self.rng.choice([EOS, *range(10, 60)]) for _ in range(self.rng.randint(1, 24))]
        sequence = Request(
            f"r{number}", prompt, SamplingParams(), 0, self.rng.randint(1, 30), (EOS,)
        )
        self.streams.append(SequenceStream(number, sequence, OutputQueue(), self._abort))
        self.outbox.append(self.streams[-1].to_message())

    def _abort(self, number):
        self.aborted.add(number)
        self.outbox.append(AbortSequence(number))


def serve(frontend, script):
    """Run one engine after the other until all work is done. Returns the number of crashes."""
    for crashes in range(MAX_CRASHES):
        worker = StrictWorker(
            NullWorker(
                EngineConfig("null", str(Path()), SPEC), script(crashes), RecordingReporter()
            )
        )
        worker.load()
        agreement = worker.negotiate(RequestedLimits(max_concurrent_requests=8, features=FEATURES))
        worker.warmup()
        scheduler = Scheduler(agreement, SchedulerConfig(), hash_key=b"k" * 32)
        frontend.resume()
        try:
            EngineCore(worker, scheduler, frontend, agreement.limits.depth).run()
        except RuntimeError as error:
            assert str(error) == "random death", "any other error is an error of the core"
        else:
            scheduler.check()
            return crashes
    raise AssertionError("the work does not end")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 4, 9]),
    st.integers(1, 3),
    st.sampled_from([6, 40, 400]),
    st.sampled_from([0.0, 0.03]),
    st.booleans(),
)
def test_every_stream_is_right_with_a_random_worker(
    seed, tokens_per_step, depth, num_blocks, chance, chunked
):
    def script(crashes):
        return NullScript(
            depth=depth,
            tokens_per_step=tokens_per_step,
            features=FEATURES if tokens_per_step > 1 else NullScript().features,
            num_blocks=num_blocks,
            block_size=16,
            max_total_tokens=64,
            max_sequences=8,
            max_step_tokens=64,
            chunked=chunked,
            jumps=NullJumps(seed + crashes, chance, chance, chance),
        )

    frontend = Frontend(random.Random(seed), num_sequences=25)
    serve(frontend, script)
    for number, stream in enumerate(frontend.streams):
        tokens, reason = echo(stream.request.prompt_token_ids, stream.request.max_new_tokens)
        assert stream.output_token_ids == tokens[: len(stream.output_token_ids)]
        if number in frontend.aborted:
            continue
        if frontend.ends[number] in ("scripted row failure", "random step failure"):
            assert chance
        else:
            assert (stream.output_token_ids, frontend.ends[number]) == (tokens, reason)


def test_rows_sample_several_tokens_and_engines_crash():
    """The events that the property test depends on do occur."""
    seen = Counter()

    class CountingFrontend(Frontend):
        def send(self, report):
            seen.update(len(output.token_ids) for output in report.outputs)
            super().send(report)

    frontend = CountingFrontend(random.Random(1), num_sequences=60)
    crashes = serve(
        frontend,
        lambda crashes: NullScript(
            depth=3,
            tokens_per_step=4,
            features=FEATURES,
            max_total_tokens=64,
            max_sequences=8,
            jumps=NullJumps(crashes, row_failures=0.03, step_failures=0.03, crashes=0.03),
        ),
    )
    assert crashes > 1
    assert min(seen[count] for count in (1, 2, 3, 4)) > 5
    assert "scripted row failure" in frontend.ends.values()


async def test_streams_of_several_tokens_survive_a_kill(tmp_path):
    """With the real client, engines are killed in the middle of streams.

    Rows sample several tokens, and three steps are in flight.
    """
    script = {
        "depth": 3,
        "tokens_per_step": 4,
        "features": FEATURES,
        "jumps": NullJumps(seed=2, max_seconds=0.01),
    }
    client = EngineClient(start_message(tmp_path, **script), lambda progress: None)
    await client.start()
    try:
        prompts = [list(range(10 + i, 16 + i)) for i in range(8)]
        streams = [
            SubmittedSequence(client, request(prompt, max_new_tokens=60)) for prompt in prompts
        ]
        tokens = [[] for _ in streams]

        async def read(number):
            async for output in streams[number]:
                tokens[number] += output.token_ids

        readers = [asyncio.create_task(read(number)) for number in range(len(streams))]
        while max(map(len, tokens)) < 8:
            await asyncio.sleep(0.005)
        os.kill(client.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.gather(*readers), 60)
        assert tokens == [echo(prompt, 60)[0] for prompt in prompts]
    finally:
        await client.close()
