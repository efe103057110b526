"""A prompt that arrives while others decode delays no token by more than half a second."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.scheduler.simulation import GREEDY, make_agreement
from tgi.backend import ModelRunnerOutput, StepTimes, empty_int32
from tgi.scheduler import Request, Scheduler, SchedulerConfig

MAX_STEP_SECONDS = 0.5
MAX_STEP_TOKENS = 1024
LONG = 6000

# (seconds of a step without tokens, seconds per token) on two cores
DEMO, MODEL_135M, MODEL_1B, MODEL_8B = (2e-4, 5e-6), (6e-3, 2.6e-4), (0.04, 2.3e-3), (0.3, 18.6e-3)
MODELS = pytest.mark.parametrize("model", [DEMO, MODEL_135M, MODEL_1B, MODEL_8B])


class Clocked:
    """A scheduler, with a worker whose steps take a + b * tokens seconds. With `reports_nothing`,
    the worker does not report these durations.
    """

    def __init__(self, model, *, reports_nothing=False, **limits):
        limits = {"max_total_tokens": 8192, "max_sequences": 8} | limits
        agreement = make_agreement(
            num_blocks=2048, block_size=16, max_step_tokens=MAX_STEP_TOKENS, **limits
        )
        self.scheduler = Scheduler(agreement, SchedulerConfig())
        self.model, self.reports_nothing = model, reports_nothing
        self.outputs = []

    def add(self, number, num_tokens, max_new_tokens=4000):
        request = Request(
            request_id=str(number),
            prompt_token_ids=[number + 1] * num_tokens,
            sampling=GREEDY,
            seed=0,
            max_new_tokens=max_new_tokens,
            eos_token_ids=(),
        )
        assert self.scheduler.add(number, request) is None

    def step(self):
        """Run one step. Returns its rows' token counts and its duration in seconds."""
        step = self.scheduler.schedule()
        rows, (fixed, per_token) = step.rows, self.model
        seconds = fixed + per_token * rows.num_tokens
        num_sampled = int(rows.sample.sum())
        times = StepTimes() if self.reports_nothing else StepTimes(forward=int(seconds * 1e9))
        output = ModelRunnerOutput(
            step_id=step.step_id,
            sequence=rows.sequence,
            token_ptr=np.concatenate([[0], rows.sample.cumsum()]).astype(np.int32),
            tokens=np.full(num_sampled, 5, np.int32),
            logprobs=np.zeros(num_sampled, np.float32),
            top_ptr=empty_int32(),
            top_ids=empty_int32(),
            top_logprobs=np.empty(0, np.float32),
            times=times,
        )
        self.outputs += self.scheduler.update(output)
        return rows.count.tolist(), seconds

    def prefill(self, number, num_tokens):
        """Add a prompt, and run until its first token. Returns the results of the steps."""
        self.add(number, num_tokens)
        steps = []
        while not any(o.sequence_id == number and o.token_ids for o in self.outputs):
            steps.append(self.step())
        return steps


@MODELS
@pytest.mark.parametrize("first_prompt", [5, 100, 3000])
@pytest.mark.parametrize("limits", [{}, {"mixed": False}, {"chunk_multiple": 8}])
def test_no_decoding_sequence_waits_longer_than_half_a_second(model, first_prompt, limits):
    server = Clocked(model, **limits)
    server.prefill(0, first_prompt)
    for number in (1, 2):
        steps = server.prefill(number, LONG)
        assert all(seconds <= MAX_STEP_SECONDS for counts, seconds in steps)
        assert sum(max(counts) for counts, _ in steps) >= LONG


@MODELS
def test_a_prompt_that_delays_nobody_uses_full_steps(model):
    server = Clocked(model)
    counts = [max(counts) for counts, _ in server.prefill(0, LONG)]
    assert counts == [MAX_STEP_TOKENS] * 5 + [LONG - 5 * MAX_STEP_TOKENS]


@pytest.mark.parametrize("model", [DEMO, MODEL_135M])
def test_a_fast_model_uses_full_steps_beside_others(model):
    server = Clocked(model)
    server.prefill(0, 100)
    assert len(server.prefill(1, LONG)) <= 7


@MODELS
def test_steps_use_most_of_the_time(model):
    server = Clocked(model)
    server.prefill(0, 100)
    steps = server.prefill(1, LONG)
    best = model[0] + model[1] * MAX_STEP_TOKENS
    middle = sorted(seconds for _, seconds in steps)[len(steps) // 2]
    assert middle >= min(0.7 * MAX_STEP_SECONDS, best)


def test_a_worker_without_measurements_is_not_limited():
    server = Clocked(MODEL_8B, reports_nothing=True)
    server.prefill(0, 100)
    assert len(server.prefill(1, LONG)) <= 7


def test_a_prompt_advances_even_if_decoding_alone_is_too_slow():
    server = Clocked((0.7, 0.05))
    server.prefill(0, 100)
    assert len(server.prefill(1, 200)) <= 200 / 8 + 2
