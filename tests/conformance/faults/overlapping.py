"""Faults that only several steps in flight show, each wrapped around the late double."""

from __future__ import annotations

import numpy as np

from tests.conformance.faults.feature_wrappers import faulty_complete, struct
from tgi.backend import TOKEN_ON_DEVICE, GrammarMasks
from tgi.testing.doubles.late_part import LatePart


def in_submit(change):
    """`change(inner, step)` submits in place of the worker."""
    return faulty_complete(lambda: {"submit": change}, wrap=LatePart)


def forgets_masks_of_an_overtaken_step(inner, step):
    if isinstance(step, GrammarMasks) and step.step_id != inner._pending._steps[-1].step_id:
        step = struct(step, words=np.full_like(step.words, -1))
    inner.submit(step)


def takes_token_0_for_one_on_the_device(inner, step):
    if not isinstance(step, GrammarMasks) and len(inner._pending._steps):
        tokens = np.where(step.rows.tokens == TOKEN_ON_DEVICE, 0, step.rows.tokens)
        step = struct(step, rows=struct(step.rows, tokens=tokens))
    inner.submit(step)


def forgets_that_a_step_failed(inner, step):
    inner._part._inner._table.mark_failed = lambda rows: None
    inner.submit(step)


def waiting_step(inner, masks):
    """The submitted step to which late masks belong."""
    steps = (step for step in inner._pending._steps if step.step_id == masks.step_id)
    return next(steps)


def ignores_masks_after_a_token_in_flight(inner, step):
    if isinstance(step, GrammarMasks):
        waiting = waiting_step(inner, step)
        if (waiting.rows.tokens == TOKEN_ON_DEVICE).any():
            step = struct(step, words=np.full_like(step.words, -1))
    inner.submit(step)


def expects_a_mask_in_every_step(inner, step):
    if not isinstance(step, GrammarMasks) or len(step.row):
        inner.submit(step)


def masks_the_first_rows(inner, step):
    if isinstance(step, GrammarMasks):
        step = struct(step, row=np.arange(len(step.row), dtype=np.int32))
    inner.submit(step)


OVERLAPPING_FAULTS = {
    "a token in flight is read as token 0": (
        in_submit(takes_token_0_for_one_on_the_device),
        "C-50c",
    ),
    "late masks of an overtaken step": (in_submit(forgets_masks_of_an_overtaken_step), "C-50d"),
    "masks after a token in flight are ignored": (
        in_submit(ignores_masks_after_a_token_in_flight),
        "C-50f",
    ),
    "late masks without rows are ignored": (in_submit(expects_a_mask_in_every_step), "C-50f"),
    "late masks apply to the first rows": (in_submit(masks_the_first_rows), "C-50f"),
    "a failed step fails the step after it": (in_submit(forgets_that_a_step_failed), "C-50e"),
}
"""Fault → the backend with the fault, and the check that must detect it."""
