"""The shape of grammar masks, checked once for all workers."""

from __future__ import annotations

from tgi.backend.errors import StepError
from tgi.backend.records import GrammarMasks, Int32Array, SchedulerOutput

__all__ = ["check_masks", "mask_words", "missing_masks"]


def mask_words(step: SchedulerOutput, vocab_size: int) -> tuple[Int32Array, Int32Array] | None:
    """Rows [k] and words [k, mask_width] of the masks of a step; None if the step has no masks.

    Raises `StepError`: one that allows a retry if late masks did not come, another one if the masks
    have the wrong shape.
    """
    if step.mask == "none":
        return None
    if step.masks is None and step.mask == "late":
        raise missing_masks(step)
    masks = check_masks(step, step.masks, vocab_size)
    return masks.row, masks.words.reshape(-1, -(-vocab_size // 32))


def missing_masks(step: SchedulerOutput) -> StepError:
    """The error of a step whose late masks did not come."""
    return StepError(f"The masks of step {step.step_id} did not come.", retryable=True)


def check_masks(step: SchedulerOutput, masks: GrammarMasks | None, vocab_size: int) -> GrammarMasks:
    """Return `masks` if each has one bit for each token and belongs to a row of the step. Raises
    `StepError`, which does not allow a retry, otherwise.
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
