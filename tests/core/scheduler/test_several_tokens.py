"""Rows that may generate several tokens in a step: how many, when, and the handling of surplus
tokens.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.scheduler.simulation import FEATURES, Simulation, make_agreement
from tgi.backend import ModelRunnerOutput


def several(tokens_per_step=4, features=(*FEATURES, "multi_token"), **changes):
    return Simulation(make_agreement(features=features, tokens_per_step=tokens_per_step, **changes))


def response(step, *tokens):
    """Return the result of a step with one row."""
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
    """Return a scheduler with one sequence that has generated its first token, 3, and the next
    step, in which the sequence may generate several tokens.
    """
    simulation = simulation or several()
    simulation.add(prompt, max_new_tokens, **request)
    first = simulation.scheduler.schedule()
    assert budgets(first) == [1]
    simulation.scheduler.update(response(first, 3))
    return simulation.scheduler, simulation.scheduler.schedule()


def test_a_decode_row_may_generate_the_negotiated_or_remaining_number_of_tokens():
    assert budgets(decoding()[1]) == [4]
    assert budgets(decoding(max_new_tokens=3)[1]) == [2]
    assert budgets(decoding(simulation=several(features=(*FEATURES, "drafts")))[1]) == [1]


def test_a_sequence_continues_after_the_last_generated_token():
    scheduler, step = decoding()
    assert scheduler.schedule() is None
    [output] = scheduler.update(response(step, 5, 6, 8))
    assert output.token_ids == [5, 6, 8]
    following = scheduler.schedule()
    assert (following.rows.start.tolist(), following.rows.tokens.tolist()) == ([5], [8])
    scheduler.check()


def test_no_row_follows_a_row_of_several_tokens_before_it_is_collected():
    simulation = several(depth=3)
    simulation.add([1, 2], 30)
    steps = [simulation.scheduler.schedule() for _ in range(3)]
    assert [budgets(step) for step in steps[:2]] == [[1], [4]]
    assert steps[2] is None


@pytest.mark.parametrize("ending", [{"eos_token_ids": (6,)}, {"max_new_tokens": 3}])
def test_tokens_after_the_last_one_are_dropped(ending):
    scheduler, step = decoding(**ending)
    tokens = (5, 6, 8, 9)[: budgets(step)[0]]
    [output] = scheduler.update(response(step, *tokens))
    assert output.token_ids == [5, 6]
    assert output.finish_reason is not None
    assert scheduler.schedule().dropped == step.rows.sequence.tolist()


def test_without_free_blocks_a_row_generates_one_token():
    """There are three blocks of four tokens and two sequences. The first sequence needs the last
    free block for its tokens, so the second may generate only one token.
    """
    simulation = several(num_blocks=3)
    for token in (1, 2):
        simulation.add([token] * 3, 8)
    [first] = simulation.step()
    assert budgets(first) == [1, 1]
    assert budgets(simulation.scheduler.schedule()) == [4, 1]


@pytest.mark.parametrize(
    ("tokens", "part"),
    [((5, 6, 8, 9, 10), "5 tokens .* but 1 to 4"), ((), "0 tokens .* but 1 to 4")],
)
def test_a_worker_that_returns_another_number_is_an_error(tokens, part):
    scheduler, step = decoding()
    with pytest.raises(RuntimeError, match=part):
        scheduler.update(response(step, *tokens))
