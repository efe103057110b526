"""Checks the shape of grammar masks, for all workers."""

from __future__ import annotations

from tgi.backend.errors import StepError
from tgi.backend.records import GrammarMasks, Int32Array, SchedulerOutput

__all__ = ["check_masks", "mask_words", "missing_masks"]


def mask_words(step: SchedulerOutput, vocab_size: int) -> tuple[Int32Array, Int32Array] | None:
    """Return the rows [k] and the words [k, mask_width] of a step's masks, or None if the step has
    no masks.

    Raises a retryable `StepError` if the late masks of the step did not arrive. Raises a
    `StepError` that is not retryable if the masks have the wrong shape.
    """
    if step.mask == "none":
        return None
    if step.masks is None and step.mask == "late":
        raise missing_masks(step)
    masks = check_masks(step, step.masks, vocab_size)
    return masks.row, masks.words.reshape(-1, -(-vocab_size // 32))


def missing_masks(step: SchedulerOutput) -> StepError:
    """Return the error of a step whose late masks did not arrive."""
    return StepError(f"The masks of step {step.step_id} did not come.", retryable=True)


def check_masks(step: SchedulerOutput, masks: GrammarMasks | None, vocab_size: int) -> GrammarMasks:
    """Return `masks` if each mask has one bit per token id and belongs to a row of the step.
    Otherwise raise a `StepError` that is not retryable.
    """
    width = -(-vocab_size // 32)
    if masks is None or masks.words.size != len(masks.row) * width:
        raise StepError(
            f"The masks of step {step.step_id} are not {width} words a row.", retryable=False
        )
    if len(masks.row) and not 0 <= masks.row.min() <= masks.row.max() < step.rows.num_rows:
        raise StepError(
            f"The masks of step {step.step_id} name rows that it does not have.", retryable=False
        )
    return masks
