"""The interface of a token sampler: its operands, its result and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from tgi.backend import Float32Array, Int32Array, SamplingParams

__all__ = ["NOTHING_ALLOWED", "NOT_FINITE", "SampledSequence", "SampledTokens", "TokenSampler"]

NOTHING_ALLOWED = "the grammar or the logit bias allows no token here"
NOT_FINITE = "the model computed NaN or infinite logits for this sequence"


class SampledSequence(Protocol):
    """What the sampler reads of a sequence. Compared by identity."""

    @property
    def sampling(self) -> SamplingParams:
        """How to choose."""

    @property
    def tokens(self) -> Int32Array:
        """Buffer of prompt and output ids; those below the context length of the step are valid."""

    @property
    def num_prompt_tokens(self) -> int:
        """Where the output ids begin."""


class SampledTokens(NamedTuple):
    """One choice per row, on the host. Top tokens of all rows stand one after the other, best
    first.
    """

    tokens: Int32Array  # [rows]; meaningless where `problems` names the row
    logprobs: Float32Array  # [rows]; NaN where none was asked for
    top_counts: Int32Array  # [rows]
    top_ids: Int32Array  # [sum(top_counts)]
    top_logprobs: Float32Array
    problems: dict[int, str]  # row -> why it has no token


class TokenSampler(Protocol):
    """Chooses one token per row. Belongs to one runner; the core sends the draws."""

    def sample(
        self,
        logits: Tensor,  # float32 [rows, vocab_size]; not changed
        sequences: list[SampledSequence],  # one per row
        lengths: Sequence[
            int
        ],  # context length of each row: ids of the sequence that stand before the chosen one
        draws: Float32Array,  # [rows] in [0, 1)
        mask: (
            tuple[Sequence[int], Int32Array] | None
        ) = None,  # constrained rows, and their words [k, mask_width]
    ) -> SampledTokens:
        """Choose a token for each row."""
