"""The fixed shapes that steps are padded to, so that all programs are compiled before serving.
Numbers only, no framework.

A step of T tokens has at most T sequences, so one number, the bucket of tokens, fixes the sequences
too; rows with logits are as many as sequences. Block tables have a few widths of their own, because
attention in plain XLA reads all of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tgi.backend import BackendError, Limits

__all__ = ["Buckets", "StepShape", "parse_token_buckets"]

_SMALLEST_TOKENS = 16
_SMALLEST_BLOCKS = 16
_BLOCKS_FACTOR = 4


@final
@dataclass(frozen=True, order=True)
class StepShape:
    """What a program is compiled for."""

    num_tokens: int
    num_sequences: int  # and rows with logits
    num_blocks: int  # per sequence

    @property
    def label(self) -> str:
        """For metrics: few values, whatever comes."""
        return f"tokens={self.num_tokens},blocks={self.num_blocks}"


@final
@dataclass(frozen=True)
class Buckets:
    """All shapes of one worker. `tokens` and `blocks` rise."""

    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    max_sequences: int

    @classmethod
    def of(cls, limits: Limits, block_size: int, token_buckets: Sequence[int] = ()) -> Buckets:
        """Buckets that hold every step within the limits. `token_buckets` empty = powers of two.

        Raises `BackendError` if the largest of `token_buckets` is below the largest step.
        """
        tokens = tuple(sorted(set(token_buckets))) or _powers_of_two(limits.max_step_tokens)
        if tokens[-1] < limits.max_step_tokens:
            raise BackendError(
                f"`--tpu-token-buckets` end at {tokens[-1]}, but a step may have"
                f" {limits.max_step_tokens} tokens.",
                "Add a larger one, or lower `--max-batch-prefill-tokens` or `--max-batch-size`.",
            )
        widths = [-(-limits.max_total_tokens // block_size)]
        while widths[-1] > _SMALLEST_BLOCKS:
            widths.append(max(_SMALLEST_BLOCKS, -(-widths[-1] // _BLOCKS_FACTOR)))
        return cls(tokens, tuple(reversed(widths)), limits.max_sequences)

    @property
    def shapes(self) -> tuple[StepShape, ...]:
        """Every shape a step may be padded to."""
        return tuple(
            self._shape(tokens, blocks) for tokens in self.tokens for blocks in self.blocks
        )

    @property
    def rows(self) -> tuple[int, ...]:
        """Every number of rows with logits."""
        return tuple(sorted({shape.num_sequences for shape in self.shapes}))

    def shape_for(self, num_tokens: int, num_blocks: int) -> StepShape:
        """The smallest shape that holds a step whose longest block table has `num_blocks`."""
        tokens = next(size for size in self.tokens if size >= num_tokens)
        return self._shape(tokens, next(width for width in self.blocks if width >= num_blocks))

    def _shape(self, tokens: int, blocks: int) -> StepShape:
        return StepShape(tokens, min(tokens, self.max_sequences), blocks)


def parse_token_buckets(text: str) -> tuple[int, ...]:
    """Sizes from `16,128`; empty for an empty text. Raises `BackendError`."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    if not all(word.isdecimal() and int(word) for word in words):
        raise BackendError(
            f"`--tpu-token-buckets {text}`: write positive numbers with commas between, e.g."
            " 16,128,1024."
        )
    return tuple(sorted({int(word) for word in words}))


def _powers_of_two(largest: int) -> tuple[int, ...]:
    sizes = [_SMALLEST_TOKENS]
    while sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)
