"""Steps in flight under a virtual clock: a second step hides the host's work from the device.

Time is simulated, not measured: 1 ms for a decision of the scheduler, 0.05 ms for a message, and
5 ms for a step of the device.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tgi.architectures import GenericSpec
from tgi.backend import EngineConfig, RequestedLimits, SamplingParams
from tgi.engine.core import EngineCore
from tgi.engine.messages import AbortSequence, AddSequence, Shutdown
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.doubles.null_script import NullScript
from tgi.testing.doubles.null_worker import NullWorker
from tgi.testing.strict_worker import StrictWorker

SCHEDULE_NS, MESSAGE_NS, STEP_NS = 1_000_000, 50_000, 5_000_000
NUM_LIVE = 256
NUM_SEQUENCES = 800
SPEC = GenericSpec(
    model_type="none",
    vocab_size=100,
    hidden_size=1,
    num_layers=1,
    num_kv_heads=1,
    head_dim=1,
    max_positions=512,
    config={},
)
EOS = 7


@dataclass
class Clock:
    now: int = 0

    def __call__(self):
        return self.now


class Device:
    """A worker whose steps take time one after the other, while the host continues."""

    def __init__(self, inner, clock):
        self.inner = inner
        self.clock = clock
        self.ends = []
        self.num_steps = 0
        self.idle_ns = 0
        self.free_at = None

    def submit(self, step):
        self.inner.submit(step)
        begin = self.clock.now if self.free_at is None else max(self.clock.now, self.free_at)
        self.idle_ns += 0 if self.free_at is None else begin - self.free_at
        self.free_at = begin + (STEP_NS if step.rows.num_rows else 0)
        self.num_steps += step.rows.num_rows > 0
        self.ends.append(self.free_at)

    def collect(self):
        self.clock.now = max(self.clock.now, self.ends.pop(0))
        return self.inner.collect()

    @property
    def idle_share(self):
        return self.idle_ns / (self.idle_ns + self.num_steps * STEP_NS)


class ChargedScheduler:
    """The scheduler, with simulated time for its decisions."""

    def __init__(self, inner, clock):
        self.inner = inner
        self.clock = clock

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def schedule(self):
        self.clock.now += SCHEDULE_NS
        return self.inner.schedule()


@dataclass
class Clients:
    """A constant number of clients. Each sends a sequence when its previous one has ended.

    Some abort their sequences.
    """

    clock: Clock
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    num_sent: int = 0
    outbox: list = field(default_factory=list)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    num_preempted: int = 0

    def receive(self, *, wait):
        if not self.num_sent:
            for _ in range(NUM_LIVE):
                self._send()
        messages, self.outbox = self.outbox, []
        if not messages and wait:
            messages = [Shutdown()]
        self.clock.now += MESSAGE_NS * len(messages)
        return messages

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, report):
        self.clock.now += MESSAGE_NS
        self.num_preempted += report.stats.scheduler.num_preempted
        for output in report.outputs:
            number = output.sequence_id
            if number in self.left:
                continue
            assert number not in self.ended, "there is output after the end"
            self.tokens.setdefault(number, []).extend(output.token_ids)
            if output.finish_reason is not None or output.error is not None:
                self.ended[number] = output.error or output.finish_reason.value
                self._send()
            elif number % 10 == 0 and len(self.tokens[number]) >= 4:
                self.left.add(number)
                self.outbox.append(AbortSequence(number))
                self._send()

    def _send(self):
        if self.num_sent == NUM_SEQUENCES:
            return
        number = self.num_sent
        self.num_sent += 1
        # The null backend repeats the prompt. If it contains EOS, the stop is known only when the
        # step is collected.
        rng = random.Random(number)
        prompt = [rng.choice([EOS, *range(10, 60)]) for _ in range(rng.randint(5, 30))]
        request = Request(f"r{number}", prompt, SamplingParams(), 0, rng.randint(20, 60), (EOS,))
        self.outbox.append(AddSequence(number, request))


def serve(depth, **script):
    clock = Clock()
    script = NullScript(depth=depth, max_sequences=NUM_LIVE, max_total_tokens=128, **script)
    worker = StrictWorker(
        NullWorker(EngineConfig("null", str(Path()), SPEC), script, RecordingReporter())
    )
    worker.load()
    agreement = worker.negotiate(
        RequestedLimits(max_concurrent_requests=NUM_LIVE, features=NullScript().features)
    )
    worker.warmup()
    device, clients = Device(worker, clock), Clients(clock)
    scheduler = ChargedScheduler(Scheduler(agreement, SchedulerConfig(), clock, b"k" * 32), clock)
    EngineCore(device, scheduler, clients, depth, clock).run()
    assert clients.num_sent == NUM_SEQUENCES
    assert len(clients.ended) + len(clients.left) == NUM_SEQUENCES
    return device, clients


@pytest.fixture(scope="module")
def one():
    return serve(1)


@pytest.fixture(scope="module")
def two():
    return serve(2)


def test_one_step_at_a_time_leaves_the_device_idle(one):
    assert one[0].idle_share >= 0.15


def test_two_steps_in_flight_keep_the_device_busy(two):
    assert two[0].idle_share <= 0.02


def test_a_stop_found_late_loses_and_adds_no_token(one, two):
    """Sequences have the same tokens and finish reasons, although tokens after EOS are computed."""
    both = one[1].ended.keys() & two[1].ended.keys()
    assert len(both) > NUM_SEQUENCES * 0.8
    assert {one[1].ended[i] for i in both} == {"length", "eos_token"}
    for number in both:
        assert two[1].tokens[number] == one[1].tokens[number]
        assert two[1].ended[number] == one[1].ended[number]


@pytest.mark.parametrize("depth", [2, 3])
def test_preemption_with_steps_in_flight(one, depth):
    """There are blocks for a fifth of the sequences, so they are preempted and computed again."""
    _, clients = serve(depth, num_blocks=400)
    assert clients.num_preempted
    for number in clients.ended.keys() & one[1].ended.keys():
        assert clients.tokens[number] == one[1].tokens[number]
