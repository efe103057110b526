"""The engine over two steps in flight whose results come late, against one step at a time.

Sequences are preempted, aborted and drawn, steps choose several tokens, and some steps fail.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tgi.backend import FEATURES, EngineConfig, RequestedLimits, SamplingParams
from tgi.engine.core import EngineCore
from tgi.engine.messages import AbortSequence, AddSequence, Shutdown
from tgi.scheduler import Request, Scheduler, SchedulerConfig
from tgi.testing.conformance.backend_under_test import RecordingReporter, prompt_of
from tgi.testing.conformance.models import TinyModels
from tgi.testing.doubles.complete_backend import complete_part
from tgi.testing.doubles.complete_part import CompletePart
from tgi.testing.doubles.late_part import LatePart
from tgi.testing.reference.network import ReferenceNetwork
from tgi.testing.strict_worker import StrictWorker
from tgi.worker.step_worker import StepWorker

NUM_SEQUENCES = 18
SAMPLING = (
    SamplingParams(logprobs="raw"),
    SamplingParams(greedy=False, temperature=0.9, logprobs="processed"),
    SamplingParams(repetition_penalty=1.5, prompt_logprobs=True),
)


@dataclass
class FailingPart:
    """A part in which some steps run out of memory before their rows run."""

    inner: object
    share: float
    num_failed: int = 0
    num_overlapped: int = 0  # failed steps with a row of a sequence of the step after it
    failed: set = field(default_factory=set)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def run(self, step):
        handles = set(step.rows.sequence.tolist())
        self.num_overlapped += bool(handles & self.failed)
        self.failed = set()
        rng = random.Random(step.step_id)
        if step.rows.num_rows > 1 and rng.random() < self.share:
            self.num_failed += 1
            self.failed = handles
            self.inner._network.is_failing = True
        return self.inner.run(step)


@dataclass
class FailingNetwork:
    """A network that runs out of memory once when `is_failing` is set."""

    inner: ReferenceNetwork
    is_failing: bool = False

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def logits(self, *arguments):
        if self.is_failing:
            self.is_failing = False
            raise MemoryError
        return self.inner.logits(*arguments)


def failing_part(config, share):
    network = FailingNetwork(ReferenceNetwork(config.spec, Path(config.model_path)))
    return FailingPart(CompletePart(network), share)


@dataclass
class Frontend:
    """Sends a new sequence when one ends, and aborts some after their first token."""

    rng: random.Random
    outbox: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    tokens: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    ends: dict = field(default_factory=dict)
    num_preempted: int = 0

    def receive(self, *, wait):
        while len(self.requests) < min(NUM_SEQUENCES, len(self.ends) + 8):
            self._send_new()
        messages, self.outbox = self.outbox, []
        return messages or ([Shutdown()] if wait else [])

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, report):
        self.num_preempted += report.stats.scheduler.num_preempted
        for output in report.outputs:
            number = output.sequence_id
            if self.ends.get(number) == "aborted":
                continue
            assert number not in self.ends, "there is output after the end"
            self.tokens.setdefault(number, []).extend(output.token_ids)
            self.scores.setdefault(number, []).extend(output.prompt_logprobs)
            if output.finish_reason is not None or output.error is not None:
                self.ends[number] = output.error or output.finish_reason.value
            elif number % 7 == 3:
                self.ends[number] = "aborted"
                self.outbox.append(AbortSequence(number))

    def _send_new(self):
        number = len(self.requests)
        prompt = prompt_of(20, seed=1) + prompt_of(self.rng.randint(1, 40), seed=number)
        request = Request(
            f"r{number}", prompt, SAMPLING[number % 3], number, self.rng.randint(1, 30)
        )
        self.requests.append(request)
        self.outbox.append(AddSequence(number, request))


def serve(part):
    worker = StrictWorker(StepWorker(part, RecordingReporter()))
    worker.load()
    agreement = worker.negotiate(
        RequestedLimits(
            max_total_tokens=96,
            max_batch_size=6,
            max_batch_total_tokens=128,
            max_batch_prefill_tokens=48,
            features=tuple(sorted(FEATURES)),
        )
    )
    worker.warmup()
    frontend = Frontend(random.Random(1))
    scheduler = Scheduler(agreement, SchedulerConfig(), hash_key=b"k" * 32)
    try:
        EngineCore(worker, scheduler, frontend, agreement.limits.depth).run()
        scheduler.check()
    finally:
        worker.close()
    return frontend


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    model = TinyModels(tmp_path_factory.mktemp("models")).get()
    return EngineConfig("complete", str(model.path), model.spec)


@pytest.fixture(scope="module")
def expected(config):
    frontend = serve(complete_part(config))
    assert len(frontend.ends) == NUM_SEQUENCES
    assert set(frontend.ends.values()) == {"length", "aborted"}
    return frontend


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_late_results_change_nothing(config, expected, share):
    inner = failing_part(config, share)
    frontend = serve(LatePart(inner))
    assert frontend.num_preempted
    assert bool(inner.num_failed) == bool(inner.num_overlapped) == bool(share)
    assert frontend.ends.keys() == expected.ends.keys()
    for number, end in frontend.ends.items():
        if "aborted" in (end, expected.ends[number]):
            continue
        assert (end, frontend.tokens[number]) == (expected.ends[number], expected.tokens[number])
        assert frontend.scores[number] == pytest.approx(expected.scores[number], nan_ok=True)
