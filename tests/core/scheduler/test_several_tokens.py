"""Rows that may choose several tokens: how many, when, and what becomes of too many."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.scheduler.simulation import FEATURES, Simulation, make_agreement
from tgi.backend import ModelRunnerOutput


def several(tokens_per_step=4, features=(*FEATURES, "multi_token"), **changes):
    return Simulation(make_agreement(features=features, tokens_per_step=tokens_per_step, **changes))


def response(step, *tokens):
    """The result of a step of one row."""
    ids, none = np.array(tokens, np.int32), np.empty(0, np.int32)
    ptr = np.array([0, len(tokens)], np.int32)
    return ModelRunnerOutput(
        step.step_id,
        step.rows.sequence,
        ptr,
        ids,
        np.zeros(len(tokens), np.float32),
        none,
        none,
        none,
    )


def budgets(step):
    return step.rows.max_tokens.tolist()


def decoding(prompt=(1, 2), max_new_tokens=30, simulation=None, **request):
    """A scheduler whose sequence has its first token, 3, and the step in which it may choose
    several.
    """
    simulation = simulation or several()
    simulation.add(prompt, max_new_tokens, **request)
    first = simulation.scheduler.schedule()
    assert budgets(first) == [1]
    simulation.scheduler.update(response(first, 3))
    return simulation.scheduler, simulation.scheduler.schedule()


def test_a_decode_row_may_choose_as_many_tokens_as_were_agreed_or_are_left():
    assert budgets(decoding()[1]) == [4]
    assert budgets(decoding(max_new_tokens=3)[1]) == [2]
    assert budgets(decoding(simulation=several(features=(*FEATURES, "drafts")))[1]) == [1]


def test_a_sequence_goes_on_after_the_last_token_that_came():
    scheduler, step = decoding()
    assert scheduler.schedule() is None
    [news] = scheduler.update(response(step, 5, 6, 8))
    assert news.token_ids == [5, 6, 8]
    following = scheduler.schedule()
    assert (following.rows.start.tolist(), following.rows.tokens.tolist()) == ([5], [8])
    scheduler.check()


def test_nothing_follows_a_row_of_several_tokens_before_it_is_collected():
    simulation = several(depth=3)
    simulation.add([1, 2], 30)
    steps = [simulation.scheduler.schedule() for _ in range(3)]
    assert [budgets(step) for step in steps[:2]] == [[1], [4]]
    assert steps[2] is None


@pytest.mark.parametrize("ending", [{"eos_token_ids": (6,)}, {"max_new_tokens": 3}])
def test_tokens_after_the_last_one_are_dropped(ending):
    scheduler, step = decoding(**ending)
    tokens = (5, 6, 8, 9)[: budgets(step)[0]]
    [news] = scheduler.update(response(step, *tokens))
    assert news.token_ids == [5, 6]
    assert news.finish_reason is not None
    assert scheduler.schedule().dropped == step.rows.sequence.tolist()


def test_without_free_blocks_a_row_chooses_one_token():
    """Three blocks of 4: the first of two sequences takes the last one for its tokens, the second
    goes on singly.
    """
    simulation = several(num_blocks=3)
    for token in (1, 2):
        simulation.add([token] * 3, 8)
    [first] = simulation.step()
    assert budgets(first) == [1, 1]
    assert budgets(simulation.scheduler.schedule()) == [4, 1]


@pytest.mark.parametrize(
    ("tokens", "part"), [((5, 6, 8, 9, 10), "5 tokens, not 1 to 4"), ((), "no tokens, not 1 to 4")]
)
def test_a_worker_that_brings_another_number_is_at_fault(tokens, part):
    scheduler, step = decoding()
    with pytest.raises(RuntimeError, match=part):
        scheduler.update(response(step, *tokens))
