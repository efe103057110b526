"""A driver that runs the scheduler with `CheckingWorker`."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from types import MappingProxyType

import numpy as np

from tests.core.scheduler.checking_worker import CheckingWorker
from tests.core.scheduler.fake_constraint import EOS, FakeConstraint
from tests.core.scheduler.fingerprints import (
    choose,
    fingerprint,
    score,
    start_print,
    top_tokens,
)
from tgi.backend import Agreement, CacheGroup, KVCachePlan, Limits, SamplingParams, SchedulerOutput
from tgi.scheduler import Request, Scheduler, SchedulerConfig, SequenceOutput
from tgi.scheduler.draw import uniform_draws
from tgi.types import FinishReason

FEATURES = ("device_token", "prefix_cache", "prompt_logprobs", "logprobs")
GREEDY = SamplingParams()
DRAWN = SamplingParams(greedy=False)
SCORED = SamplingParams(prompt_logprobs=True, top_n_tokens=2)

# Prompts may contain any of these ids. The worker samples only the first `VOCAB_SIZE`.
NUM_TOKEN_IDS = 100


def make_agreement(
    mode="paged", num_blocks=16, block_size=4, groups=None, features=FEATURES, **limits
):
    limits = {"max_total_tokens": 48, "max_sequences": 6, "max_step_tokens": 16, **limits}
    if mode == "slots":
        plan = KVCachePlan(
            "slots",
            num_sequence_slots=limits["max_sequences"],
            sequence_slot_tokens=limits["max_total_tokens"],
        )
    else:
        plan = KVCachePlan("paged", block_size, groups or (CacheGroup("full", num_blocks),))
    return Agreement((1, 0), features, Limits(**limits), plan, NUM_TOKEN_IDS, ())


def run_alone(request: Request, resumed: list[int], max_total_tokens: int, grammar=None):
    """Return the output tokens, the finish reason and the prompt scores of a request without a
    scheduler. `resumed` are the output tokens of an earlier engine process.
    """
    print_, scores = start_print(request.adapter, request.encoder_token_ids), []
    for token in [*request.prompt_token_ids, *resumed]:
        print_ = fingerprint(print_, token)
        if len(scores) < len(request.prompt_token_ids):
            scores.append(score(print_) if scores else None)
    tokens = list(resumed)
    longest = min(request.max_new_tokens, max_total_tokens - len(request.prompt_token_ids))
    if is_complete(tokens, request, grammar):
        return tokens, FinishReason.EOS_TOKEN, scores
    while len(tokens) < longest:
        draw = 0.0
        if not request.sampling.greedy:
            draw = uniform_draws(
                np.array([request.seed], np.uint64), np.array([len(tokens)], np.uint64)
            )[0]
        tokens.append(choose(print_, draw, grammar and grammar.allowed(tokens)))
        print_ = fingerprint(print_, tokens[-1])
        ends = tokens[-1] in request.eos_token_ids or is_complete(tokens, request, grammar)
        if len(tokens) < longest and ends:
            return tokens, FinishReason.EOS_TOKEN, scores
    return tokens, FinishReason.LENGTH, scores


def is_complete(tokens, request, grammar):
    """Whether the text is complete and the sequence cannot generate EOS."""
    if grammar is None or grammar.has_dead_end:
        return False
    return len(tokens) >= grammar.length and EOS not in request.eos_token_ids


@dataclass
class Stream:
    request: Request
    resumed: list[int]
    tokens: list[int] = field(default_factory=list)
    scores: list = field(default_factory=list)
    end: SequenceOutput | None = None
    is_aborted: bool = False
    constraint: FakeConstraint | None = None


class Simulation:
    """A scheduler, a worker, and the streams that the front end would receive."""

    def __init__(self, agreement, config=None, failures=None):
        self.agreement = agreement
        self.now = 0
        self.scheduler = Scheduler(
            agreement, config or SchedulerConfig(), clock=lambda: self.now, hash_key=b"k" * 32
        )
        self.scheduler.load_adapter(1, b"one")
        self.worker = CheckingWorker(agreement, failures)
        self.streams: dict[int, Stream] = {}
        self.steps: list[SchedulerOutput] = []

    def add(
        self, prompt, max_new_tokens=8, grammar=None, constraint=MappingProxyType({}), **kwargs
    ):
        sequence_id = len(self.streams)
        resumed = kwargs.pop("output_token_ids", [])
        request = Request(
            "r",
            list(prompt),
            kwargs.pop("sampling", GREEDY),
            kwargs.pop("seed", 0),
            max_new_tokens,
            **kwargs,
        )
        stream = self.streams[sequence_id] = Stream(request, resumed, list(resumed))
        if grammar is not None:
            stream.constraint = FakeConstraint(
                grammar, list(resumed), request.eos_token_ids, **constraint
            )
        refused = self.scheduler.add(sequence_id, request, resumed, stream.constraint)
        if refused is not None:
            self._receive([refused])
        return sequence_id

    def abort(self, sequence_id):
        self.streams[sequence_id].is_aborted = True
        self.scheduler.abort(sequence_id)

    def submit(self):
        step = self.scheduler.schedule()
        self.scheduler.check()
        if step is not None:
            self.steps.append(step)
            self.worker.submit(step)
            self._send_masks()
        return step

    def collect(self, retryable=True):
        step, output = self.worker.collect()
        if output is None:
            self._receive(self.scheduler.fail_step(step.step_id, "step", retryable))
        else:
            self._receive(self.scheduler.update(output))
        self._send_masks()
        self._receive(self.scheduler.end_constrained())
        self.scheduler.check()
        return step

    def step(self):
        """Fill the pipeline, then collect one step. Returns the steps submitted."""
        self.now += 1
        submitted = []
        while (
            len(self.worker.steps) < self.agreement.limits.depth
            and (step := self.submit()) is not None
        ):
            submitted.append(step)
        if self.worker.steps:
            self.collect()
        else:
            self._receive(self.scheduler.end_constrained())
            is_waiting = self.scheduler.constrained or self.scheduler.has_dropped
            assert is_waiting or not self.scheduler.has_work, "unfinished sequences cannot run"
        return submitted

    def run(self, limit=3000):
        for _ in range(limit):
            if not self.scheduler.has_work and not self.worker.steps:
                return
            self.step()
        raise AssertionError("the sequences do not end")

    def run_randomly(self, rng, add, num_turns=30, abort_share=0.15):
        """Add, abort, submit and collect in random order, and then run to the end. `add(self, rng)`
        adds a sequence. Check the streams as `assert_ended_as_alone` does.
        """
        for _ in range(num_turns):
            for _ in range(rng.choice([0, 0, 1, 3])):
                add(self, rng)
            live = [i for i, s in self.streams.items() if s.end is None and not s.is_aborted]
            if live and rng.random() < abort_share:
                self.abort(rng.choice(live))
                self._send_masks()
                self.scheduler.check()
            if self.worker.steps and rng.random() < 0.5:
                self.collect(retryable=rng.random() < 0.7)
            elif len(self.worker.steps) < self.agreement.limits.depth:
                self.submit()
            else:
                self.collect()
        self.run()
        self.assert_ended_as_alone()

    def _send_masks(self):
        for masks in self.scheduler.take_late_masks():
            self.worker.submit_masks(masks)

    def _receive(self, outputs):
        for output in outputs:
            stream = self.streams[output.sequence_id]
            assert not stream.is_aborted, "an output of an aborted sequence"
            assert stream.end is None, "an output after the end"
            stream.tokens += output.token_ids
            stream.scores += output.prompt_logprobs
            for value, top in zip_longest(output.prompt_logprobs, output.prompt_top, fillvalue=()):
                assert top == (() if value is None else top_tokens(value, 2))
            if output.finish_reason is not None or output.error is not None:
                stream.end = output

    def assert_ended_as_alone(self):
        """Check that all resources are free, and that every stream has ended with the same output
        as if its request had run alone.
        """
        stats = self.scheduler.stats()
        plan = self.agreement.kv_cache
        token_groups = [
            group.num_blocks for group in plan.groups if group.kind in ("full", "window")
        ]
        states = [group.num_blocks for group in plan.groups if group.kind == "state"]
        total = plan.num_sequence_slots if plan.mode == "slots" else min(token_groups or states)
        assert (stats.num_waiting, stats.num_running, stats.num_free_blocks) == (0, 0, total)
        assert stats.num_used_tokens == 0
        assert not self.worker.sequences
        for stream in self.streams.values():
            assert (stream.end is None) == stream.is_aborted or stream.is_aborted
            if stream.end is not None and stream.end.error is not None and not stream.tokens:
                continue
            tokens, reason, scores = run_alone(
                stream.request,
                stream.resumed,
                self.agreement.limits.max_total_tokens,
                stream.constraint and stream.constraint.grammar,
            )
            assert stream.tokens == tokens[: len(stream.tokens)]
            if stream.request.sampling.prompt_logprobs and not stream.resumed:
                assert stream.scores == scores[: len(stream.scores)]
            if stream.end is not None and stream.end.error is None:
                assert (stream.tokens, stream.end.finish_reason) == (tokens, reason)
                if stream.request.sampling.prompt_logprobs and not stream.resumed:
                    assert stream.scores == scores
