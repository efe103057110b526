"""Checks a step and its masks against the negotiated limits, for workers that store their sequences
as rows of arrays.

A step has n rows, and `indices` [n] are their sequences' rows in the arrays. Each check raises
`StepError`, which does not allow a retry unless late masks did not arrive.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tgi.backend.agreement import Limits
from tgi.backend.errors import StepError
from tgi.backend.records import GrammarMasks, Int32Array, Rows, SchedulerOutput

__all__ = [
    "check_blocks",
    "check_masks",
    "check_positions",
    "check_size",
    "check_token_ids",
    "mask_words",
    "missing_masks",
]

Int64Array = npt.NDArray[np.int64]


def check_size(rows: Rows, limits: Limits) -> None:
    """Check the number of rows and tokens."""
    if rows.num_rows > limits.max_sequences or rows.num_tokens > limits.max_step_tokens:
        raise StepError(
            f"The step has {rows.num_rows} rows and {rows.num_tokens} tokens. At most"
            f" {limits.max_sequences} rows and {limits.max_step_tokens} tokens were negotiated.",
            retryable=False,
        )


def check_positions(rows: Rows, num_computed_tokens: Int64Array, indices: Int64Array) -> None:
    """Check that `count` matches the tokens, and that each row starts at the first position of its
    sequence that is not computed.
    """
    num_counted = int(rows.count.sum())
    if rows.count.min() < 1 or num_counted != rows.num_tokens:
        raise StepError(
            f"The sum of `count` is {num_counted}, but the step has {rows.num_tokens} tokens. Each"
            " value of `count` must be at least 1.",
            retryable=False,
        )
    gaps = np.flatnonzero(rows.start != num_computed_tokens[indices])
    if len(gaps):
        row = int(gaps[0])
        raise StepError(
            f"Sequence {rows.sequence[row]} continues at position {rows.start[row]}, but"
            f" {num_computed_tokens[indices[row]]} of its tokens are computed.",
            retryable=False,
        )


def check_blocks(
    rows: Rows, num_blocks: Int64Array, indices: Int64Array, lengths: Int64Array, block_size: int
) -> None:
    """Check that each sequence has enough blocks. `lengths` [n] is the number of tokens of each
    sequence after the step.
    """
    short = np.flatnonzero(lengths > num_blocks[indices] * block_size)
    if len(short):
        row = int(short[0])
        raise StepError(
            f"Sequence {rows.sequence[row]} has {lengths[row]} tokens after the step, but only"
            f" {num_blocks[indices[row]]} blocks of {block_size} tokens.",
            retryable=False,
        )


def check_token_ids(token_ids: npt.NDArray[np.integer], vocab_size: int) -> None:
    """Check that the embedding has a row for each of `token_ids` [n]."""
    # A negative id is a large number without its sign, so one comparison is enough.
    if len(token_ids) and token_ids.view(f"u{token_ids.itemsize}").max() >= vocab_size:
        outside = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
        raise StepError(
            f"The step contains the token id {outside[0]}, but the model has {vocab_size}"
            " token ids.",
            retryable=False,
        )


def mask_words(step: SchedulerOutput, vocab_size: int) -> tuple[Int32Array, Int32Array] | None:
    """Return the rows [k] and the words [k, mask_width] of a step's masks, or None if the step has
    no masks.

    Raises `StepError`. The step may be retried if its late masks did not arrive, but not if the
    masks have the wrong shape.
    """
    if step.mask == "none":
        return None
    if step.masks is None and step.mask == "late":
        raise missing_masks(step)
    masks = check_masks(step, step.masks, vocab_size)
    return masks.row, masks.words.reshape(-1, -(-vocab_size // 32))


def missing_masks(step: SchedulerOutput) -> StepError:
    """Return the error of a step whose late masks did not arrive."""
    return StepError(f"The masks of step {step.step_id} did not arrive.", retryable=True)


def check_masks(step: SchedulerOutput, masks: GrammarMasks | None, vocab_size: int) -> GrammarMasks:
    """Return `masks` if each mask has one bit per token id and belongs to a row of the step.
    Otherwise raises a `StepError` that is not retryable.
    """
    width = -(-vocab_size // 32)
    if masks is None or masks.words.size != len(masks.row) * width:
        raise StepError(
            f"The masks of step {step.step_id} do not have {width} words per row.", retryable=False
        )
    if len(masks.row) and not 0 <= masks.row.min() <= masks.row.max() < step.rows.num_rows:
        raise StepError(
            f"The masks of step {step.step_id} refer to rows that the step does not have.",
            retryable=False,
        )
    return masks
