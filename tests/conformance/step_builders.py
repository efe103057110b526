"""Steps written by hand, for the tests of the step rules."""

from __future__ import annotations

import msgspec
import numpy as np

from tests.core.scheduler.simulation import GREEDY
from tgi.backend import NewSequence, Rows, SchedulerOutput

replace = msgspec.structs.replace


def new(handle=0, tokens=(1, 2, 3, 4, 5), blocks=(0, 1), **changes):
    fields = {
        "num_prompt_tokens": len(tokens),
        "num_computed_tokens": 0,
        "sampling": GREEDY,
    } | changes
    return NewSequence(
        handle, "r", np.array(tokens, np.int32), block_tables=[np.array(blocks, np.int32)], **fields
    )


def rows(*work, sample=1, blocks=()):
    """Build rows from `work`, which is (handle, start, tokens)."""
    n = len(work)
    return Rows(
        sequence=np.array([handle for handle, _, _ in work], np.int32),
        start=np.array([start for _, start, _ in work], np.int32),
        count=np.array([len(tokens) for _, _, tokens in work], np.int32),
        tokens=np.array([token for _, _, tokens in work for token in tokens], np.int32),
        sample=np.full(n, sample, np.uint8),
        draw=np.zeros(n, np.float32),
        new_block_ptr=[np.array([0] * n + [len(blocks)], np.int32)],
        new_blocks=[np.array(blocks, np.int32)],
    )


PROMPT = (0, 0, [1, 2, 3, 4, 5])
FIRST = SchedulerOutput(0, [], [new()], rows(PROMPT))


def step(work, added=(), dropped=(), step_id=1, **changes):
    return SchedulerOutput(step_id, list(dropped), list(added), work, **changes)


def second(work, **changes):
    return [FIRST, step(work, **changes)]


def send(rules, steps):
    for item in steps:
        rules.submit(item)
        rules.collect()
