"""The step rules for rows that may choose several tokens."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conformance.step_builders import FIRST, PROMPT, new, replace, rows, send, step
from tests.core.scheduler.simulation import NUM_TOKEN_IDS, make_agreement
from tgi.backend import GrammarMasks, ModelRunnerOutput, SchedulerOutput, empty_int32
from tgi.testing.step_limits import BrokenRuleError
from tgi.testing.step_rules import StepRules
from tgi.testing.tiny_images import image_of

SEVERAL = make_agreement(
    features=("multi_token", "drafts", "mask", "images", "embeddings"), tokens_per_step=3
)


def one_each(work):
    """Build rows for limits of several tokens, each of which may sample one."""
    return replace(work, max_tokens=np.ones(work.num_rows, np.int32))


def several(max_tokens=3, draft_tokens=(), num_draws=None, start=5, token=7, blocks=(), **changes):
    """Build one decode row that may sample several tokens."""
    num_draws = max_tokens - 1 if num_draws is None else num_draws
    return replace(
        rows((0, start, [token]), blocks=blocks),
        max_tokens=np.array([max_tokens], np.int32),
        extra_draw=np.zeros(num_draws, np.float32),
        draft_ptr=np.array([0, len(draft_tokens)] if draft_tokens else [], np.int32),
        draft=np.array(draft_tokens, np.int32),
        **changes,
    )


BEGUN = replace(FIRST, rows=one_each(FIRST.rows))
MASK_OF_ONE_ROW = np.ones(-(-NUM_TOKEN_IDS // 32), np.int32)
BROKEN_SEVERAL = {
    "more than negotiated": ([BEGUN, step(several(4))], "1 to 3 are allowed"),
    "a draw too few": ([BEGUN, step(several(num_draws=1))], "has 1 draws, but the step needs 2"),
    "a row after one of unknown length": (
        [BEGUN, "collect 1", step(several()), step(several(start=6), step_id=2)],
        "not known",
    ),
    "the first row": (
        [step(replace(several(start=0, token=1)), added=[new(tokens=[1], blocks=[0])])],
        "first row",
    ),
    "a row of several": (
        [
            replace(
                BEGUN, rows=replace(rows(PROMPT), max_tokens=np.array([2]), extra_draw=np.zeros(1))
            )
        ],
        "has 5 tokens",
    ),
    "a row that samples none": (
        [BEGUN, step(several(sample=np.zeros(1, np.uint8)))],
        "has 1 tokens and `sample` 0",
    ),
    "a draft token too few": (
        [BEGUN, step(several(draft_tokens=[1]))],
        "1 draft tokens and `max_tokens` 3",
    ),
    "a draft token beyond the vocabulary": (
        [BEGUN, step(several(draft_tokens=[1, NUM_TOKEN_IDS]))],
        "vocabulary",
    ),
    "beyond the blocks": (
        [BEGUN, "collect 1", step(several()), "collect 2", step(several(start=7), step_id=2)],
        "A sequence of (9|10) tokens needs 3 blocks, but it has 2",
    ),
    "one mask for three tokens": (
        [
            replace(BEGUN, added=[new(is_masked=True)]),
            step(
                several(draft_tokens=[1, 2]),
                mask="inline",
                masks=GrammarMasks(1, np.array([0], np.int32), MASK_OF_ONE_ROW),
            ),
        ],
        "1 masks, but it may sample 3 tokens",
    ),
    "three tokens of a masked sequence without drafts": (
        [replace(BEGUN, added=[new(is_masked=True)]), step(several())],
        "several tokens without draft tokens",
    ),
    "a token of a pooled sequence": ([replace(BEGUN, added=[new(pooling="last")])], "pooled"),
    "images that overlap": (
        [replace(BEGUN, added=[new(media=[image_of(0, 3), image_of(2, 2)])])],
        "overlap another medium",
    ),
    "an image beyond the prompt": (
        [replace(BEGUN, added=[new(media=[image_of(3, 3)])])],
        "outside the prompt",
    ),
}


def response(step_id, *counts):
    """Build the result of a step with the given number of tokens for sequences 0, 1 …"""
    handles, ptr = np.arange(len(counts), dtype=np.int32), np.cumsum([0, *counts], dtype=np.int32)
    tokens, none = np.full(sum(counts), 3, np.int32), empty_int32()
    return ModelRunnerOutput(
        step_id,
        handles,
        ptr,
        tokens,
        tokens.astype(np.float32),
        none,
        none,
        none.astype(np.float32),
    )


@pytest.mark.parametrize("case", BROKEN_SEVERAL)
def test_a_broken_rule_of_several_tokens_is_named(case):
    steps, part = BROKEN_SEVERAL[case]
    rules = StepRules(replace(SEVERAL, limits=replace(SEVERAL.limits, depth=2)))
    for item in steps[:-1]:
        (
            rules.submit(item)
            if isinstance(item, SchedulerOutput)
            else rules.collect(response(0, int(item[-1])))
        )
    with pytest.raises(BrokenRuleError, match=part):
        rules.submit(steps[-1])


def test_a_sequence_continues_after_its_row_of_several_tokens():
    for count in (1, 2, 3):
        rules = StepRules(SEVERAL)
        for item, num_tokens in ((BEGUN, 1), (step(several(draft_tokens=[4, 5])), count)):
            rules.submit(item)
            rules.collect(response(item.step_id, num_tokens))
        rules.submit(step(several(max_tokens=2, start=5 + count, token=3, blocks=[2]), step_id=2))
        rules.collect()
        wrong = StepRules(SEVERAL)
        for item, num_tokens in ((BEGUN, 1), (step(several()), count)):
            wrong.submit(item)
            wrong.collect(response(item.step_id, num_tokens))
        with pytest.raises(BrokenRuleError, match="continues at position"):
            wrong.submit(step(several(start=6 + count, token=3, blocks=[2]), step_id=2))


def test_several_tokens_need_their_features():
    with pytest.raises(BrokenRuleError, match="the feature `multi_token` was not negotiated"):
        send(StepRules(replace(SEVERAL, features=("drafts",))), [BEGUN, step(several())])
    with pytest.raises(BrokenRuleError, match="the feature `drafts` was not negotiated"):
        send(
            StepRules(replace(SEVERAL, features=("multi_token",))),
            [BEGUN, step(several(draft_tokens=[1, 2]))],
        )
    with pytest.raises(BrokenRuleError, match="does not match the negotiated limits"):
        send(StepRules(make_agreement()), [BEGUN])
    with pytest.raises(BrokenRuleError, match="the feature `images` was not negotiated"):
        send(StepRules(make_agreement()), [replace(FIRST, added=[new(media=[image_of(0, 2)])])])
    with pytest.raises(BrokenRuleError, match="the feature `embeddings` was not negotiated"):
        send(StepRules(make_agreement()), [replace(FIRST, added=[new(pooling="last")])])
