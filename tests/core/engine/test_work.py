"""The number of frames, bytes and calls, and the memory that the engine uses per step. If a limit
is exceeded, check whether the additional work is necessary.

A value per step is the difference between a long and a short run, divided by the difference in
steps. The work for startup and prefill therefore cancels out.
"""

import pytest

from tests.core.engine.engine_setup import request, start_message
from tests.work_counter import calls_of, count_calls, peak_bytes
from tgi.engine.core import EngineCore
from tgi.engine.link import encode_frame
from tgi.engine.messages import AddSequence, Shutdown, StepReport
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.scheduler import Scheduler
from tgi.testing.doubles.null_backend import tgi_backend

SHORT, LONG = 20, 60
NUM_STEPS = LONG - SHORT

# The limits by number of sequences.
MAX_FRAMES = {1: 1, 32: 1}  # per step
# Per token. The duration of a step takes 3 bytes, or 5 bytes if the step was slow.
MAX_BYTES = {1: 84, 32: 28}
MAX_CALLS = {1: 182, 32: 1190}  # per step
MAX_GROWTH_BYTES = 16  # per token, for the entries of the prefix cache


class FrontendConnection:
    """A front end that submits `num_sequences` sequences at once and shuts down the engine when
    they have ended.
    """

    def __init__(self, num_sequences, num_tokens):
        asked = request([1, 2, 3], num_tokens)
        streams = [
            SequenceStream(n, asked, OutputQueue(), lambda _: None) for n in range(num_sequences)
        ]
        self._waiting = [stream.to_message() for stream in streams]
        self._num_live = num_sequences
        self.num_frames = self.num_bytes = 0

    def receive(self, *, wait):
        if self._waiting:
            messages, self._waiting = self._waiting, []
            assert all(isinstance(message, AddSequence) for message in messages)
            return messages
        return [] if self._num_live else [Shutdown()]

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, message):
        self.num_frames += 1
        self.num_bytes += len(encode_frame(message))
        if isinstance(message, StepReport):
            self._num_live -= sum(output.finish_reason is not None for output in message.outputs)


class ChattyConnection(FrontendConnection):
    """A seeded fault: the engine sends a frame per sequence instead of one per step."""

    def send(self, message):
        for output in message.outputs:
            super().send(StepReport([output], message.stats))


class WorkerReporter:
    def progress(self, phase, done, total):
        pass

    def log(self, message):
        pass


@pytest.fixture
def serve(tmp_path):
    def serve_once(num_sequences, num_tokens, connection=FrontendConnection, extra=lambda: None):
        start = start_message(tmp_path)
        worker = tgi_backend().create_worker(start.engine, WorkerReporter())
        worker.load()
        agreement = worker.negotiate(start.requested)
        frontend = connection(num_sequences, num_tokens)
        core = EngineCore(
            worker,
            Scheduler(agreement, start.scheduler),
            frontend,
            agreement.limits.depth,
            clock=_clock(extra),
        )
        return frontend, core

    return serve_once


def _clock(extra):
    def clock():
        extra()
        return 0

    return clock


def difference(measure):
    return (measure(LONG) - measure(SHORT)) / NUM_STEPS


def frames_and_bytes(serve, num_sequences, connection=FrontendConnection):
    def run(num_tokens):
        frontend, core = serve(num_sequences, num_tokens, connection)
        core.run()
        return frontend

    frames = difference(lambda num_tokens: run(num_tokens).num_frames)
    num_bytes = difference(lambda num_tokens: run(num_tokens).num_bytes) / num_sequences
    return frames, num_bytes


def calls(serve, num_sequences, extra=lambda: None):
    return difference(
        lambda num_tokens: count_calls(serve(num_sequences, num_tokens, extra=extra)[1].run)
    )


def growth(serve, num_sequences, extra=lambda: None):
    """Return the bytes per token that are still allocated after the run."""
    return (
        difference(
            lambda num_tokens: peak_bytes(serve(num_sequences, num_tokens, extra=extra)[1].run)[1]
        )
        / num_sequences
    )


@pytest.mark.parametrize("num_sequences", [1, 32])
def test_work_per_step(serve, num_sequences):
    frames, num_bytes = frames_and_bytes(serve, num_sequences)
    num_calls = calls(serve, num_sequences)
    left = growth(serve, num_sequences)
    print(
        f"{num_sequences}: {frames} frames, {num_bytes} bytes per token, {num_calls} calls, {left}"
        " bytes left per token"
    )
    assert frames <= MAX_FRAMES[num_sequences]
    assert num_bytes <= MAX_BYTES[num_sequences]
    assert num_calls <= MAX_CALLS[num_sequences]
    assert left <= MAX_GROWTH_BYTES


def test_additional_frames_exceed_the_limit(serve):
    frames, num_bytes = frames_and_bytes(serve, 32, ChattyConnection)
    assert frames == 32
    assert num_bytes > MAX_BYTES[32]


def test_additional_calls_exceed_the_limit(serve):
    assert calls(serve, 1, extra=lambda: [abs(n) for n in range(10)]) > MAX_CALLS[1]


def test_additional_memory_exceeds_the_limit(serve):
    kept = []
    assert growth(serve, 1, extra=lambda: kept.append(bytearray(100))) > MAX_GROWTH_BYTES


class BusyConnection(FrontendConnection):
    """A front end whose next message arrives soon after the last one."""

    def is_quiet(self, seconds):
        return False


@pytest.mark.parametrize(("connection", "expected"), [(BusyConnection, 0), (FrontendConnection, 1)])
def test_invariants_are_checked_only_in_quiet_times(serve, connection, expected):
    _, core = serve(1, SHORT, connection)
    num_checks = calls_of(core.run, {"tgi.scheduler.scheduler.Scheduler.check"})
    assert num_checks == expected
