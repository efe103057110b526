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


OVERLAPPING_FAULTS = {
    "a token in flight is read as token 0": (
        in_submit(takes_token_0_for_one_on_the_device),
        "C-50c",
    ),
    "late masks of an overtaken step": (in_submit(forgets_masks_of_an_overtaken_step), "C-50d"),
    "a failed step fails the step after it": (in_submit(forgets_that_a_step_failed), "C-50e"),
}
"""Fault → the backend with the fault, and the check that must detect it."""
