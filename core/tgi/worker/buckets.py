"""The fixed shapes to which steps are padded, so that all programs can be compiled during startup.

A step of T tokens has at most T sequences. The token bucket therefore also determines the number of
sequences and the number of rows with logits. The length of the block tables has separate buckets,
because attention without a paged kernel reads the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend.agreement import Limits
from tgi.backend.errors import BackendError
from tgi.backend.records import Int32Array

__all__ = ["Buckets", "StepShape", "padded", "parse_token_buckets"]

_SMALLEST_TOKENS = 16
_SMALLEST_BLOCKS = 16
_BLOCKS_FACTOR = 4


@final
@dataclass(frozen=True, order=True)
class StepShape:
    """The shape of a compiled program."""

    num_tokens: int
    num_sequences: int  # also the number of rows with logits
    num_blocks: int  # per sequence

    @property
    def label(self) -> str:
        """Label for metrics. There is one label per shape."""
        return f"tokens={self.num_tokens},blocks={self.num_blocks}"


@final
@dataclass(frozen=True)
class Buckets:
    """All shapes of one worker. `tokens` and `blocks` are in ascending order."""

    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    max_sequences: int

    @classmethod
    def of(
        cls,
        limits: Limits,
        block_size: int,
        token_buckets: Sequence[int] = (),
        option: str = "--token-buckets",
    ) -> Buckets:
        """Return buckets for all steps that the limits allow. The token buckets are powers of two
        if `token_buckets` is empty.

        Raises a `BackendError` that contains `option` if the largest token bucket is smaller than
        `limits.max_step_tokens`.
        """
        tokens = tuple(sorted(set(token_buckets))) or _powers_of_two(limits.max_step_tokens)
        if tokens[-1] < limits.max_step_tokens:
            raise BackendError(
                f"The largest size of `{option}` is {tokens[-1]}, but a step may have"
                f" {limits.max_step_tokens} tokens.",
                "Add a larger one, or lower `--max-batch-prefill-tokens` or `--max-batch-size`.",
            )
        widths = [-(-limits.max_total_tokens // block_size)]
        while widths[-1] > _SMALLEST_BLOCKS:
            widths.append(max(_SMALLEST_BLOCKS, -(-widths[-1] // _BLOCKS_FACTOR)))
        return cls(tokens, tuple(reversed(widths)), limits.max_sequences)

    @property
    def shapes(self) -> tuple[StepShape, ...]:
        """Every shape to which a step may be padded."""
        return tuple(
            self._shape(tokens, blocks) for tokens in self.tokens for blocks in self.blocks
        )

    @property
    def rows(self) -> tuple[int, ...]:
        """Every number of rows with logits."""
        return tuple(sorted({shape.num_sequences for shape in self.shapes}))

    def shape_for(self, num_tokens: int, num_blocks: int) -> StepShape:
        """Return the smallest shape for a step with `num_tokens` tokens, whose longest block table
        has `num_blocks` blocks.
        """
        tokens = next(size for size in self.tokens if size >= num_tokens)
        return self._shape(tokens, next(width for width in self.blocks if width >= num_blocks))

    def _shape(self, tokens: int, blocks: int) -> StepShape:
        return StepShape(tokens, min(tokens, self.max_sequences), blocks)


def parse_token_buckets(text: str, option: str = "--token-buckets") -> tuple[int, ...]:
    """Parse sizes such as `16,128`. Returns an empty tuple for an empty text. Raises a
    `BackendError` that contains `option` if `text` is malformed.
    """
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() and int(word) for word in words):
        raise BackendError(
            f"`{option} {text}` is not a list of positive numbers with commas between them.",
            "An example is 16,128,1024.",
        )
    return tuple(sorted({int(word) for word in words}))


def padded(
    values: npt.NDArray[np.int32] | npt.NDArray[np.int64], size: int, filler: int = 0
) -> Int32Array:
    """Return `values` as int32 [size], padded with `filler`."""
    array = np.full(size, filler, np.int32)
    array[: len(values)] = values
    return array


def _powers_of_two(largest: int) -> tuple[int, ...]:
    sizes = [_SMALLEST_TOKENS]
    while sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)
