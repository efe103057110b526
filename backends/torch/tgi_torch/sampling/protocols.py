"""The interface of a token sampler: its arguments, its result and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from tgi.backend import Float32Array, Int32Array, SamplingParams

__all__ = ["NOTHING_ALLOWED", "NOT_FINITE", "SampledSequence", "SampledTokens", "TokenSampler"]

NOTHING_ALLOWED = "the grammar or the logit bias allows no token here"
NOT_FINITE = "the model computed NaN or infinite logits for this sequence"


class SampledSequence(Protocol):
    """The data of a sequence that the sampler reads. Sequences are compared by identity."""

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters."""

    @property
    def tokens(self) -> Int32Array:
        """Prompt and output ids. Only those below the step's context length are valid."""

    @property
    def num_prompt_tokens(self) -> int:
        """Number of prompt ids, which are followed by the output ids."""


class SampledTokens(NamedTuple):
    """One sampled token per row, on the host.

    The top tokens of all rows are concatenated. Those of a row are ordered by probability.
    """

    tokens: Int32Array  # [rows]; undefined for the rows in `problems`
    logprobs: Float32Array  # [rows]; NaN if not requested
    top_counts: Int32Array  # [rows]
    top_ids: Int32Array  # [sum(top_counts)]
    top_logprobs: Float32Array
    problems: dict[int, str]  # row → the reason why it has no token


class TokenSampler(Protocol):
    """Samples one token per row. Each runner has its own sampler. Draws come from the core."""

    def sample(
        self,
        logits: Tensor,  # float32 [rows, vocab_size]; not changed
        sequences: list[SampledSequence],  # one per row
        lengths: Sequence[int],  # [rows], number of ids before the sampled one
        draws: Float32Array,  # [rows] in [0, 1)
        # Constrained rows, and their allowed tokens as bits [k, mask_width].
        mask: tuple[Sequence[int], Int32Array] | None = None,
    ) -> SampledTokens:
        """Sample a token for each row."""
