"""Checks a step against the negotiated limits, for workers that store their sequences as rows of
arrays.

A step has n rows. `indices` [n] contains the array row of the sequence of each step row. If a check
fails, it raises a `StepError` that is not retryable.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tgi.backend.agreement import Limits
from tgi.backend.errors import StepError
from tgi.backend.records import Rows

__all__ = ["check_blocks", "check_positions", "check_size", "check_token_ids"]

Int64Array = npt.NDArray[np.int64]


def check_size(rows: Rows, limits: Limits) -> None:
    """Check the number of rows and tokens."""
    if rows.num_rows > limits.max_sequences or rows.num_tokens > limits.max_step_tokens:
        raise StepError(
            f"The step has {rows.num_rows} rows and {rows.num_tokens} tokens; agreed are at most"
            f" {limits.max_sequences} and {limits.max_step_tokens}.",
            retryable=False,
        )


def check_positions(rows: Rows, num_computed_tokens: Int64Array, indices: Int64Array) -> None:
    """Check that the counts match the tokens, and that each row starts at the first position of its
    sequence that is not computed.
    """
    num_counted = int(rows.count.sum())
    if rows.count.min() < 1 or num_counted != rows.num_tokens:
        raise StepError(
            f"The rows count {num_counted} tokens, but {rows.num_tokens} were sent.",
            retryable=False,
        )
    gaps = np.flatnonzero(rows.start != num_computed_tokens[indices])
    if len(gaps):
        row = int(gaps[0])
        raise StepError(
            f"Sequence {rows.sequence[row]} goes on at position {rows.start[row]}, but"
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
            f"Sequence {rows.sequence[row]} grows to {lengths[row]} tokens, but has"
            f" {num_blocks[indices[row]]} blocks of {block_size}.",
            retryable=False,
        )


def check_token_ids(token_ids: npt.NDArray[np.integer], vocab_size: int) -> None:
    """Check that the embedding has a row for each of `token_ids` [n]."""
    if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < vocab_size:
        outside = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
        raise StepError(
            f"The step contains token id {outside[0]}, the model has {vocab_size} token ids.",
            retryable=False,
        )
