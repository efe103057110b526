"""An engine loop with the null backend and scripted matchers."""

import concurrent.futures

from tests.core.engine.engine_setup import SPEC, request
from tgi.backend import FEATURES, EngineConfig, RequestedLimits, SamplingParams
from tgi.engine.core import EngineCore
from tgi.engine.guidance import GuidanceManager
from tgi.engine.messages import AbortSequence, AddSequence, Shutdown, StepReport
from tgi.scheduler import Scheduler, SchedulerConfig
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.doubles.null_script import NullScript
from tgi.testing.doubles.null_worker import NullWorker
from tgi.testing.strict_worker import StrictWorker
from tgi.types import Guidance

from .fake_grammars import EOS, VOCABULARY

MS = 1_000_000
DRAWN = SamplingParams(greedy=False)
PLAIN = ("prefix_cache", "device_token", "logprobs")
INLINE, LATE = (*PLAIN, "mask"), (*PLAIN, "late_mask")
BOTH = (*INLINE, "late_mask")


def guided(grammar, max_new_tokens=9, prompt=(5, 6), **kwargs):
    kwargs = {"eos_token_ids": (EOS,), "sampling": DRAWN, "guidance": Guidance(grammar)} | kwargs
    return request(prompt, max_new_tokens, **kwargs)


class Frontend:
    """Sends the messages of `script` one list per call, and calls functions in it. Shuts down the
    engine when all sequences have ended.
    """

    def __init__(self, requests, script=()):
        added = [AddSequence(number, asked) for number, asked in enumerate(requests)]
        self._script = [added, *script]
        self._live = set(range(len(requests)))
        self.tokens = {number: [] for number in self._live}
        self.ends = {}
        self.reports = []

    def receive(self, *, wait):
        del wait
        messages = []
        if self._script:
            messages = self._script.pop(0)
            messages = messages() if callable(messages) else messages
        for message in messages:
            if isinstance(message, AbortSequence):
                self._live.discard(message.sequence_id)
        return messages if self._live or messages else [Shutdown()]

    def is_quiet(self, seconds):
        return seconds > 0

    def send(self, message):
        assert isinstance(message, StepReport)
        self.reports.append(message)
        for output in message.outputs:
            self.tokens[output.sequence_id] += output.token_ids
            if output.finish_reason is not None or output.error is not None:
                self.ends[output.sequence_id] = output.finish_reason or output.error
                self._live.discard(output.sequence_id)


class Engine:
    """An engine loop with the null backend, whose vocabulary was built."""

    def __init__(self, pool, build=None, **script):
        script = NullScript(**{"features": INLINE, "max_step_tokens": 64} | script)
        worker = StrictWorker(
            NullWorker(EngineConfig("null", "", SPEC), script, RecordingReporter())
        )
        worker.load()
        limits = RequestedLimits(max_concurrent_requests=8, features=tuple(sorted(FEATURES)))
        agreement = worker.negotiate(limits)
        worker.warmup()
        self.pool = pool
        self.scheduler = Scheduler(agreement, SchedulerConfig(), hash_key=b"k" * 32)
        self._worker, self._depth = worker, agreement.limits.depth
        self.guidance = GuidanceManager(pool.clock, build or (lambda _: pool), 10 * MS)
        self.guidance.set_vocabulary(VOCABULARY, VOCABULARY.vocab_size)
        concurrent.futures.wait([self.guidance._pool])

    def run(self, requests, script=()):
        return self.serve(Frontend(requests, script))

    def serve(self, frontend):
        EngineCore(
            self._worker,
            self.scheduler,
            frontend,
            self._depth,
            self.pool.clock,
            guidance=self.guidance,
        ).run()
        self.scheduler.check()
        assert not self.scheduler.constrained
        return frontend
