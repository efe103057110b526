"""The interface of a token sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from tgi.backend import Float32Array, Int32Array, SamplingParams
from tgi.worker.step_output import SampledTokens

__all__ = ["SampledSequence", "TokenSampler"]


class SampledSequence(Protocol):
    """The data of a sequence that the sampler reads. Sequences are compared by identity."""

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters."""

    @property
    def tokens(self) -> Int32Array:
        """Prompt and output ids. Only the ids at positions below the step's context length are
        valid.
        """

    @property
    def num_prompt_tokens(self) -> int:
        """Number of prompt ids, which are followed by the output ids."""


class TokenSampler(Protocol):
    """Samples one token per row. Each runner has its own sampler. The core provides the random
    draws.
    """

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
