"""Sequences with constraints: when they wait, when their masks are sent, and how they end."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.scheduler.fake_constraint import EOS, FakeConstraint, FakeGrammar
from tests.core.scheduler.fingerprints import VOCAB_SIZE, allowed_tokens
from tests.core.scheduler.simulation import DRAWN, FEATURES, GREEDY, SCORED, Simulation
from tests.core.scheduler.simulation import make_agreement as make
from tests.core.scheduler.test_properties import agreements
from tgi.scheduler import Request, SchedulerConfig
from tgi.types import FinishReason

INLINE = (*FEATURES, "mask")
LATE = (*FEATURES, "late_mask")
BOTH = (*FEATURES, "mask", "late_mask")


class Switch:
    """A condition that a test changes, and the number of times that it was read."""

    def __init__(self, value=False):
        self.value, self.num_reads = value, 0

    def __call__(self):
        self.num_reads += 1
        return self.value


def grammar_with(masked, seed=0, **kwargs):
    """Return a grammar whose first position has a mask, or has no mask."""
    grammars = (FakeGrammar(seed + n, **kwargs) for n in range(1000))
    return next(g for g in grammars if (g.allowed([]) is not None) == masked)


def test_only_the_sampled_row_waits_for_the_constraint():
    simulation, ready = Simulation(make(features=INLINE, max_step_tokens=8)), Switch()
    simulation.add(range(1, 20), 3, FakeGrammar(1), {"ready": ready})
    rows = [step.rows for _ in range(5) for step in simulation.step()]
    assert [row.count.tolist() for row in rows] == [[8], [8], [2]]
    assert not any(row.sample.any() for row in rows)
    ready.value = True
    [step] = simulation.step()
    assert (step.rows.count.tolist(), step.rows.sample.tolist()) == ([1], [1])
    simulation.run()
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize("is_chunked", [True, False])
def test_other_sequences_do_not_wait_for_a_constraint(is_chunked):
    """A waiting sequence at the head of the queue delays neither running nor waiting sequences."""
    agreement = make(features=INLINE, max_sequences=3, chunked=is_chunked)
    simulation, ready = Simulation(agreement), Switch()
    simulation.add([1, 2, 3], 9, FakeGrammar(1), {"ready": ready})
    for token in (4, 5):
        simulation.add([token], 6)
    for _ in range(8):
        simulation.step()
    assert [simulation.streams[i].end is not None for i in range(3)] == [False, True, True]
    assert simulation.streams[0].tokens == []
    ready.value = True
    simulation.run()
    simulation.assert_ended_as_alone()


def test_a_failed_sequence_that_waits_for_its_constraint_does_not_block_the_queue():
    simulation, ready = Simulation(make(features=INLINE)), Switch()
    simulation.add(range(1, 7), 4, FakeGrammar(1), {"ready": ready})
    simulation.submit()
    step, _ = simulation.worker.collect()
    simulation._receive(simulation.scheduler.fail_step(step.step_id, "step", True))
    simulation.add([8], 3)
    for _ in range(6):
        simulation.step()
    assert simulation.streams[1].end.finish_reason is FinishReason.LENGTH
    ready.value = True
    simulation.run()
    simulation.assert_ended_as_alone()


def test_without_time_for_a_mask_the_row_sits_out_and_other_rows_run():
    simulation, has_time = Simulation(make(features=INLINE)), Switch(True)
    simulation.add([1, 2], 6, grammar_with(masked=True), {"has_time": has_time})
    simulation.add([3, 4], 6)
    simulation.step()
    has_time.value = False
    [step] = simulation.step()
    assert step.rows.sequence.tolist() == [1]
    has_time.value = True
    [step] = simulation.step()
    assert step.rows.sequence.tolist() == [0, 1]
    simulation.run()
    simulation.assert_ended_as_alone()


@pytest.mark.parametrize(
    ("features", "modes"),
    [
        (INLINE, ["inline"]),
        (LATE, ["late"]),
        (BOTH, ["inline"]),
    ],
)
def test_known_tokens_have_inline_masks_where_they_were_negotiated(features, modes):
    simulation = Simulation(make(features=features))
    grammar = grammar_with(masked=True)
    simulation.add([1, 2], 1, grammar)
    simulation.add([3], 1)
    assert [step.mask for step in simulation.step()] == modes
    simulation.run()
    simulation.assert_ended_as_alone()


def test_with_two_steps_in_flight_masks_follow_the_token_before():
    """The second step is submitted before the token of the first step is known. Its mask is sent
    after the first step was collected.
    """
    simulation = Simulation(make(features=BOTH, depth=2))
    simulation.add([1, 2], 5, grammar_with(masked=True))
    simulation.add([3, 4], 5)
    first, second = simulation.submit(), simulation.submit()
    assert (first.mask, second.mask) == ("inline", "late")
    assert second.rows.sequence.tolist() == [0, 1]
    assert simulation.worker.steps[1][0].masks is None
    simulation.collect()
    assert simulation.worker.steps[0][0].masks is not None
    simulation.run()
    simulation.assert_ended_as_alone()


def test_without_late_masks_a_row_waits_for_the_token_before():
    simulation = Simulation(make(features=INLINE, depth=2))
    simulation.add([1, 2], 5, grammar_with(masked=True))
    simulation.add([3, 4], 5)
    first, second = simulation.submit(), simulation.submit()
    assert first.rows.sequence.tolist() == [0, 1]
    assert second.rows.sequence.tolist() == [1]
    simulation.run()
    simulation.assert_ended_as_alone()


def test_a_constrained_row_samples_one_token():
    features = (*BOTH, "multi_token")
    simulation = Simulation(make(features=features, tokens_per_step=4))
    simulation.add([1, 2], 9, FakeGrammar(3))
    simulation.add([3, 4], 9)
    simulation.step()
    [step] = simulation.step()
    assert step.rows.max_tokens.tolist() == [1, 4]
    assert [new.is_masked for new in simulation.steps[0].added] == [True, False]
    simulation.run()
    simulation.assert_ended_as_alone()


def test_a_position_without_a_mask_costs_no_mask():
    simulation = Simulation(make(features=BOTH))
    simulation.add([1, 2], 9, grammar_with(masked=False))
    [step] = simulation.step()
    assert (step.mask, step.masks) == ("none", None)
    assert simulation.streams[0].constraint.num_masks == 0


@pytest.mark.parametrize("features", [INLINE, LATE, BOTH])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_one_mask_per_constrained_row(features, depth):
    simulation = Simulation(make(features=features, depth=depth))
    for number in range(3):
        simulation.add([1, 2 + number], 12, FakeGrammar(number))
        simulation.add([6, 2 + number], 12)
    simulation.run()
    simulation.assert_ended_as_alone()
    for stream in simulation.streams.values():
        constraint = stream.constraint
        if constraint is not None:
            outputs = [stream.tokens[:length] for length in range(len(stream.tokens))]
            masked = [constraint.grammar.allowed(output) is not None for output in outputs]
            assert constraint.num_masks == sum(masked)
    rows = [row for step in simulation.steps if step.masks for row in allowed_tokens(step)]
    assert rows or features == LATE or depth > 1


@pytest.mark.parametrize(
    ("length", "max_new_tokens", "eos_token_ids", "num_tokens", "reason"),
    [
        (3, 9, (EOS,), 4, FinishReason.EOS_TOKEN),  # the mask of the last token allows only EOS
        (3, 9, (), 3, FinishReason.EOS_TOKEN),
        (3, 3, (EOS,), 3, FinishReason.LENGTH),
        (3, 3, (), 3, FinishReason.LENGTH),
        (3, 2, (), 2, FinishReason.LENGTH),
        (0, 9, (EOS,), 1, FinishReason.EOS_TOKEN),
        (0, 9, (), 0, FinishReason.EOS_TOKEN),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_the_end_of_a_complete_text(
    length, max_new_tokens, eos_token_ids, num_tokens, reason, depth
):
    simulation = Simulation(make(features=BOTH, depth=depth))
    grammar = FakeGrammar(2, length)
    simulation.add([1, 2], max_new_tokens, grammar, eos_token_ids=eos_token_ids)
    simulation.run()
    stream = simulation.streams[0]
    assert (len(stream.tokens), stream.end.finish_reason) == (num_tokens, reason)
    assert (stream.tokens[-1:] == [EOS]) == (
        reason is FinishReason.EOS_TOKEN and eos_token_ids != ()
    )
    assert stream.constraint.num_closed == 1


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("features", [INLINE, LATE, BOTH])
def test_a_dead_end_ends_only_its_sequence(depth, features):
    simulation = Simulation(make(features=features, depth=depth))
    simulation.add([1, 2], 9, FakeGrammar(2, 3, has_dead_end=True))
    simulation.add([1, 2], 9)
    simulation.add([1, 2], 9, FakeGrammar(4))
    simulation.run()
    simulation.assert_ended_as_alone()
    ends = [simulation.streams[i].end for i in range(3)]
    assert [end.error for end in ends] == ["dead end", None, None]
    assert len(simulation.streams[0].tokens) == 3


def test_a_step_that_the_worker_rejected_gets_no_masks():
    simulation = Simulation(make(features=LATE))
    simulation.add([1, 2], 9, grammar_with(masked=True))
    step = simulation.scheduler.schedule()
    assert step.mask == "late"
    simulation.scheduler.fail_step(step.step_id, "step", True)
    assert simulation.scheduler.take_late_masks() == []


def test_an_aborted_sequence_releases_its_constraint():
    simulation = Simulation(make(features=BOTH))
    simulation.add([1, 2], 9, FakeGrammar(2), {"ready": Switch()})
    simulation.step()
    simulation.abort(0)
    simulation.run()
    assert simulation.streams[0].constraint.num_closed == 1
    assert not simulation.scheduler.constrained


def test_a_worker_without_masks_gets_no_constrained_sequence():
    simulation = Simulation(make())
    simulation.add([1, 2], 9, FakeGrammar(2))
    assert "cannot apply grammars" in simulation.streams[0].end.error
    simulation.run()


def test_a_constraint_that_missed_a_token_breaks_an_invariant():
    class IgnoringTokens(FakeConstraint):
        def accept(self, token_id):
            pass

    simulation = Simulation(make(features=INLINE))
    request = Request("r", [1, 2], GREEDY, 0, 9)
    simulation.scheduler.add(0, request, (), IgnoringTokens(FakeGrammar(1)))
    simulation.worker.submit(simulation.scheduler.schedule())
    _, output = simulation.worker.collect()
    simulation.scheduler.update(output)
    with pytest.raises(AssertionError, match="accepted 0 of 1 output tokens"):
        simulation.scheduler.check()


def add_random(simulation, rng):
    """Add a sequence that is constrained with a probability of 60 %."""
    grammar, constraint = None, {}
    if rng.random() < 0.6:
        length, has_dead_end = rng.choice([(99, False), (3, False), (0, False), (4, True)])
        grammar = FakeGrammar(rng.randrange(5), length, has_dead_end)
        wait, time = rng.choice([0.1, 0.5, 1.0]), rng.choice([0.5, 1.0])
        constraint = {
            "ready": lambda: rng.random() < wait,
            "has_time": lambda: rng.random() < time,
        }
    plan, encoder_tokens = simulation.agreement.kv_cache, []
    if plan.mode == "paged" and any(group.kind == "cross" for group in plan.groups):
        encoder_tokens = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 7, 30]))]
    max_new_tokens = rng.randint(4, 20)
    simulation.add(
        [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 14))],
        max_new_tokens,
        grammar,
        constraint,
        # A text that is complete before its first token has no prompt logprobs.
        sampling=rng.choice([GREEDY, DRAWN, GREEDY if grammar and not grammar.length else SCORED]),
        seed=rng.getrandbits(64),
        eos_token_ids=rng.choice([(), (EOS,)]),
        output_token_ids=resumed_tokens(rng, grammar),
        encoder_token_ids=encoder_tokens,
    )


def resumed_tokens(rng, grammar):
    """Return the output tokens of an earlier engine process, which the grammar allows."""
    tokens = []
    for _ in range(rng.choice([0, 0, 0, 2])):
        allowed = grammar and grammar.allowed(tokens)
        tokens.append(min((allowed or {3}) - {EOS}, default=3))
    return [] if grammar is not None and grammar.length < 3 else tokens


@settings(max_examples=150, deadline=None)
@given(
    agreements(),
    st.sampled_from([("mask",), ("late_mask",), ("mask", "late_mask")]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_random_mixes_equal_running_alone(agreement, masks, seed, fails):
    """Any depth, several tokens per step, preemptions, failed steps and rows, random readiness."""
    features = (*agreement.features, *masks)
    limits = {name: getattr(agreement.limits, name) for name in agreement.limits.__struct_fields__}
    plan, rng = agreement.kv_cache, random.Random(seed)
    agreement = make(plan.mode, features=features, groups=plan.groups, **limits)
    config = SchedulerConfig(max_waiting_tokens=rng.randint(0, 5))
    simulation = Simulation(agreement, config, failures=random.Random(seed) if fails else None)
    simulation.run_randomly(rng, add_random)
    for stream in simulation.streams.values():
        constraint = stream.constraint
        if constraint is not None and (stream.is_aborted or stream.end.error is None):
            assert constraint.num_closed <= 1
            assert np.array_equal(constraint.output, stream.tokens[: len(constraint.output)])
