"""The real scheduler respects all negotiated limits, and a core that does not is detected."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.step_builders import FIRST, PROMPT, new, replace, rows, second, send, step
from tests.core.scheduler.simulation import NUM_TOKEN_IDS, SCORED, Simulation, make_agreement
from tests.core.scheduler.test_constraints import add_random as add_constrained
from tests.core.scheduler.test_properties import add_random, agreements
from tgi.backend import SAMPLING_FIELDS, CacheGroup, GrammarMasks, SamplingParams, empty_int32
from tgi.testing.step_limits import BrokenRuleError
from tgi.testing.step_rules import StepRules

MASK_WORDS_PER_ROW = -(-NUM_TOKEN_IDS // 32)


class RuledWorker:
    """The worker of the simulation, with `StepRules` in front of it."""

    def __init__(self, inner):
        self._inner = inner
        self.rules = StepRules(inner.agreement)

    @property
    def steps(self):
        return self._inner.steps

    @property
    def sequences(self):
        return self._inner.sequences

    def submit(self, step):
        self.rules.submit(step)
        self._inner.submit(step)

    def submit_masks(self, masks):
        self.rules.submit_masks(masks)
        self._inner.submit_masks(masks)

    def collect(self):
        step, output = self._inner.collect()
        self.rules.collect(output)
        return step, output


@settings(max_examples=60, deadline=None)
@given(
    agreements(),
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from([(), ("mask",), ("late_mask",), ("mask", "late_mask")]),
)
def test_the_scheduler_respects_negotiated_limits(agreement, seed, fails, mask_features):
    rng = random.Random(seed)
    agreement = replace(agreement, features=(*agreement.features, *mask_features))
    simulation = Simulation(agreement, failures=random.Random(seed) if fails else None)
    simulation.worker = RuledWorker(simulation.worker)
    agreed = replace(
        agreement, features=(*agreement.features, "lora"), sampling=tuple(SAMPLING_FIELDS)
    )
    simulation.worker.rules = StepRules(agreed)
    for _ in range(20):
        for _ in range(rng.choice([0, 0, 1, 3])):
            (add_constrained if mask_features else add_random)(simulation, rng)
        live = [
            i
            for i, stream in simulation.streams.items()
            if stream.end is None and not stream.is_aborted
        ]
        if live and rng.random() < 0.15:
            simulation.abort(rng.choice(live))
        simulation.step()
    simulation.run()
    simulation.assert_ended_as_alone()
    assert simulation.worker.rules.num_sequences == 0


OTHER = (1, 0, [1, 2, 3, 4, 5])
BROKEN = {
    "step ids go back": second(rows((0, 5, [7])), step_id=0),
    "too many tokens": [
        step(
            rows((0, 0, list(range(9)) * 2)),
            added=[new(tokens=list(range(9)) * 2, blocks=range(5))],
        )
    ],
    "too many sequences": [
        step(rows(*[(i, 0, [1]) for i in range(7)]), added=[new(i, [1], [i]) for i in range(7)])
    ],
    "handle in use": second(rows(PROMPT), added=[new(blocks=[4, 5])]),
    "unknown handle": second(rows((3, 5, [7]))),
    "drop of an unknown handle": second(rows(), dropped=[3]),
    "gap in positions": second(rows((0, 6, [7]))),
    "row repeated": second(rows((0, 4, [5]))),
    "block of another": second(rows(OTHER), added=[new(1, blocks=[1, 2])]),
    "block grown into another": second(
        rows((0, 5, [7]), (1, 0, [1]), blocks=[0]), added=[new(1, [1], [3])]
    ),
    "block out of range": [step(rows(PROMPT), added=[new(blocks=[0, 16])])],
    "too few blocks": [step(rows(PROMPT), added=[new(blocks=[0])])],
    "another token": [step(rows((0, 0, [1, 2, 9, 4, 5])), added=[new()])],
    "token beyond the vocabulary": second(rows((0, 5, [NUM_TOKEN_IDS]))),
    "two rows of one": second(rows((0, 5, [7]), (0, 6, [7]))),
    "placeholder for a sent token": [step(rows((0, 0, [1, 2, 3, 4, -1])), added=[new()])],
    "prefix hit of everything": [step(rows((0, 5, [1])), added=[new(num_computed_tokens=5)])],
    "mask unagreed": second(
        rows((0, 5, [7])), mask="inline", masks=GrammarMasks(1, empty_int32(), empty_int32())
    ),
    "scored prompt with hits": [
        step(rows((0, 4, [5])), added=[new(num_computed_tokens=4, sampling=SCORED)])
    ],
    "a known token sampled again": [step(rows((0, 0, [1, 2, 3, 4])), added=[new()])],
    "adapter unagreed": [step(rows(PROMPT), added=[new(adapter=1)])],
    "masked row not negotiated": [step(rows(PROMPT), added=[new(is_masked=True)])],
    "sampling field not negotiated": [
        step(rows(PROMPT), added=[new(sampling=SamplingParams(greedy=False, min_p=0.1))])
    ],
    "watermark unagreed": [
        step(rows(PROMPT), added=[new(sampling=SamplingParams(watermark_gamma=0.5))])
    ],
    "copy of a block that does not exist": second(
        rows((0, 5, [7])), copy_source=[np.array([16])], copy_target=[np.array([9])]
    ),
    "copy without a target": second(
        rows((0, 5, [7])), copy_source=[np.array([3])], copy_target=[np.array([], np.int32)]
    ),
    "two decode tokens": second(rows((0, 5, [7, 8]))),
    "empty row": second(rows((0, 5, []))),
}


def test_a_core_that_keeps_the_rules_passes():
    rules = StepRules(make_agreement())
    send(rules, second(rows((0, 5, [-1]))))
    send(
        rules,
        [step(rows((0, 0, [9]), blocks=[]), added=[new(0, [9], [0])], dropped=[0], step_id=2)],
    )
    assert rules.num_sequences == 1


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_named(case):
    with pytest.raises(BrokenRuleError):
        send(StepRules(make_agreement()), BROKEN[case])


def test_rules_for_special_limits():
    scored, chunk = (
        step(rows((0, 0, [1, 2]), sample=0), added=[new()]),
        make_agreement(chunked=False),
    )
    with pytest.raises(BrokenRuleError, match="chunk"):
        send(StepRules(chunk), [scored])
    with pytest.raises(BrokenRuleError, match="chunk"):
        send(StepRules(make_agreement(chunk_multiple=4)), [scored])
    mixed = second(rows((0, 5, [7]), (1, 0, [1])), added=[new(1, [1], [3])])
    with pytest.raises(BrokenRuleError, match="mixed steps were not negotiated"):
        send(StepRules(make_agreement(mixed=False)), mixed)
    swapped = second(rows((1, 0, [1]), (0, 5, [7])), added=[new(1, [1], [3])])
    send(StepRules(make_agreement()), swapped)
    with pytest.raises(BrokenRuleError, match="before a decode row"):
        send(StepRules(make_agreement(decode_rows_first=True)), swapped)
    two = [step(rows((0, 0, [1]), (1, 0, [1])), added=[new(0, [1], [0]), new(1, [1], [3])])]
    with pytest.raises(BrokenRuleError, match="has 2 prefill rows, but at most 1"):
        send(StepRules(make_agreement(max_prefills=1)), two)
    with pytest.raises(BrokenRuleError, match="not negotiated"):
        send(StepRules(make_agreement(features=())), second(rows((0, 5, [-1]))))
    with pytest.raises(BrokenRuleError, match="steps are in flight"):
        _ = [
            StepRules.submit(rules, item)
            for rules in [StepRules(make_agreement())]
            for item in second(rows((0, 5, [7])))
        ]
    capped = replace(make_agreement(), sampling=("top_k",), sampling_caps={"top_k": 16})
    with pytest.raises(BrokenRuleError, match="top_k"):
        send(
            StepRules(capped),
            [step(rows(PROMPT), added=[new(sampling=SamplingParams(greedy=False, top_k=17))])],
        )


def masks(step_id=1, row=(0,), words=(1,) * MASK_WORDS_PER_ROW):
    return GrammarMasks(step_id, np.array(row, np.int32), np.array(words, np.int32))


def masked_step(is_masked=True, row=PROMPT, sample=1):
    rules = StepRules(make_agreement(features=("late_mask",)))
    work = rows(row, sample=sample)
    rules.submit(step(work, added=[new(is_masked=is_masked)], mask="late"))
    return rules


def test_late_masks_follow_their_step():
    rules = masked_step()
    rules.submit_masks(masks())
    rules.collect()


@pytest.mark.parametrize(
    ("late_masks", "part"),
    [
        (masks(step_id=0), "does not wait for masks"),
        (
            masks(words=(1,) * (MASK_WORDS_PER_ROW + 1)),
            f"a mask must have {MASK_WORDS_PER_ROW} words",
        ),
        (masks(row=(1,)), "The masks are for the rows"),
        (masks(words=(0,) * MASK_WORDS_PER_ROW), "allows no token"),
        (masks(words=(1, 0, 0, 16)), "an id outside the vocabulary"),
        (None, "before its masks"),
    ],
)
def test_invalid_late_masks_are_rejected(late_masks, part):
    rules = masked_step()
    with pytest.raises(BrokenRuleError, match=part):
        rules.collect() if late_masks is None else rules.submit_masks(late_masks)


def test_late_masks_may_have_no_rows():
    rules = masked_step()
    rules.submit_masks(masks(row=(), words=()))
    rules.collect()


@pytest.mark.parametrize("changes", [{"is_masked": False}, {"sample": 0}])
def test_a_mask_needs_a_sampled_row_of_a_masked_sequence(changes):
    rules = masked_step(**changes)
    with pytest.raises(BrokenRuleError, match="may sample 0 tokens of a masked sequence"):
        rules.submit_masks(masks())


WITH_ENCODER = (CacheGroup("full", 16), CacheGroup("cross", 10))


def encoded(handle, num_encoder_tokens, num_blocks=None, block=0):
    num_blocks = -(-num_encoder_tokens // 4) if num_blocks is None else num_blocks
    tables = [np.array([handle], np.int32), np.arange(block, block + num_blocks, dtype=np.int32)]
    tokens = np.ones(num_encoder_tokens, np.int32)
    return replace(new(handle, [1], []), block_tables=tables, encoder_tokens=tokens)


def encoder_step(added, *work):
    n = len(work)
    grown = {"new_block_ptr": [np.zeros(n + 1, np.int32)] * 2, "new_blocks": [empty_int32()] * 2}
    return step(replace(rows(*work), **grown), added=added)


def test_the_encoder_budget():
    """16 tokens per step: an encoder with more tokens runs with its own row only."""
    agreement = make_agreement(groups=WITH_ENCODER)
    send(StepRules(agreement), [encoder_step([encoded(0, 30)], (0, 0, [1]))])
    both = [encoded(0, 7), encoded(1, 7, block=2)]
    send(StepRules(agreement), [encoder_step(both, (0, 0, [1]), (1, 0, [1]))])
    more = [encoded(0, 8), encoded(1, 7, block=2)]
    with pytest.raises(BrokenRuleError, match="15 encoder tokens and 2 other tokens"):
        send(StepRules(agreement), [encoder_step(more, (0, 0, [1]), (1, 0, [1]))])
    with pytest.raises(BrokenRuleError, match="without a row"):
        send(StepRules(agreement), [encoder_step(both, (0, 0, [1]))])
    with pytest.raises(BrokenRuleError, match=r"7 encoder tokens .* 1 blocks, but it needs 2"):
        send(StepRules(agreement), [encoder_step([encoded(0, 7, num_blocks=1)], (0, 0, [1]))])


def test_blocks_of_a_step_in_flight_are_not_reused():
    rules = StepRules(make_agreement(depth=2))
    rules.submit(FIRST)
    reused = step(rows((1, 0, [1])), added=[new(1, [1], [0])], dropped=[0])
    with pytest.raises(BrokenRuleError, match="in flight"):
        rules.submit(reused)
