"""The scheduler follows the rules of state snapshots, and a core that does not is detected."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.step_builders import replace, send, step
from tests.conformance.test_step_rules import RuledWorker
from tests.core.scheduler.simulation import FEATURES, GREEDY, Simulation, make_agreement
from tests.core.scheduler.test_state_snapshots import add_random, hybrid_agreements
from tgi.backend import SAMPLING_FIELDS, CacheGroup, NewSequence, Rows
from tgi.testing.step_limits import BrokenRuleError
from tgi.testing.step_rules import StepRules

PROMPT = list(range(1, 11))
AGREEMENT = make_agreement(
    groups=(CacheGroup("state", 4),), features=(*FEATURES, "state_snapshots")
)


@settings(max_examples=30, deadline=None)
@given(hybrid_agreements(), st.integers(0, 2**32), st.booleans())
def test_the_scheduler_follows_the_rules(agreement, seed, fails):
    rng = random.Random(seed)
    agreement = replace(
        agreement, features=(*agreement.features, "lora"), sampling=tuple(SAMPLING_FIELDS)
    )
    simulation = Simulation(agreement, failures=random.Random(seed) if fails else None)
    simulation.worker = RuledWorker(simulation.worker)
    for _ in range(25):
        for _ in range(rng.choice([0, 1, 2])):
            add_random(simulation, rng)
        simulation.step()
    simulation.run()


def new(handle, state, num_computed_tokens=0):
    return NewSequence(
        handle,
        "r",
        np.array(PROMPT, np.int32),
        len(PROMPT),
        num_computed_tokens,
        [np.array([state], np.int32)],
        GREEDY,
    )


def rows(*work):
    """Build rows from `work`, which is (handle, start, count)."""
    n = len(work)
    return Rows(
        np.array([handle for handle, _, _ in work], np.int32),
        np.array([start for _, start, _ in work], np.int32),
        np.array([count for _, _, count in work], np.int32),
        np.array([t for _, start, n in work for t in PROMPT[start : start + n]], np.int32),
        np.array([start + n == len(PROMPT) for _, start, n in work], np.uint8),
        np.zeros(n, np.float32),
        [np.zeros(n + 1, np.int32)],
        [np.empty(0, np.int32)],
    )


def copies(*pairs):
    sides = [[np.array([pair[side] for pair in pairs], np.int32)] for side in (0, 1)]
    return {"copy_source": sides[0], "copy_target": sides[1]}


def after_a_chunk(*work, added=(), **changes):
    """A step after a chunk of sequence 0, whose state is block 0."""
    first = step(rows((0, 0, 8)), added=[new(0, 0)], step_id=0)
    return [first, step(rows(*work), added=added, **changes)]


TAKEN = after_a_chunk((0, 8, 2), **copies((0, 3)))
RESTORED = [*TAKEN, step(rows((1, 8, 2)), added=[new(1, 1, 8)], step_id=2, **copies((3, 1)))]

BROKEN = {
    "the snapshot is not copied": (
        after_a_chunk((1, 8, 2), added=[new(1, 1, 8)]),
        "no snapshot is copied",
    ),
    "the state of another sequence is restored": (
        after_a_chunk((1, 8, 2), added=[new(1, 1, 8)], **copies((0, 1))),
        "in the state .* of another sequence",
    ),
    "the sequence has no row": (
        after_a_chunk((1, 0, 8), added=[new(1, 1)], **copies((0, 3))),
        "has no row in the step",
    ),
    "a free block is copied": (after_a_chunk((0, 8, 2), **copies((2, 3))), "has no row"),
    "the target is a state": (
        after_a_chunk((0, 8, 2), (1, 0, 8), added=[new(1, 1)], **copies((0, 1))),
        "is in use",
    ),
    "two copies have the same target": (
        after_a_chunk((0, 8, 2), **copies((0, 3), (0, 3))),
        "occurs twice",
    ),
}


def test_a_core_that_follows_the_rules_passes():
    send(StepRules(AGREEMENT), RESTORED)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_named(case):
    steps, message = BROKEN[case]
    with pytest.raises(BrokenRuleError, match=message):
        send(StepRules(AGREEMENT), steps)


def test_a_block_of_a_step_in_flight_is_not_a_target():
    limits = replace(AGREEMENT.limits, depth=2)
    rules = StepRules(replace(AGREEMENT, limits=limits))
    send(rules, [step(rows((0, 0, 8), (1, 0, 8)), added=[new(0, 0), new(1, 1)], step_id=0)])
    rules.submit(step(rows((0, 8, 2)), step_id=1, **copies((0, 3))))
    second = step(rows((1, 8, 2)), step_id=2, **copies((1, 3)))
    with pytest.raises(BrokenRuleError, match="is in use"):
        rules.submit(second)


def test_snapshots_must_be_negotiated():
    features = tuple(name for name in AGREEMENT.features if name != "state_snapshots")
    with pytest.raises(BrokenRuleError, match="`state_snapshots` was not negotiated"):
        send(StepRules(replace(AGREEMENT, features=features)), TAKEN)
