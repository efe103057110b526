"""Detects the watermark of a text: preferred tokens occur more often than by chance.

The test is from Kirchenbauer et al., "A Watermark for Large Language Models" (arXiv 2301.10226),
section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tgi.testing.sampling import green_tokens

__all__ = ["WatermarkEvidence", "detect_watermark"]


@final
@dataclass(frozen=True)
class WatermarkEvidence:
    """The number of examined tokens, and the number of green tokens, which are the tokens that a
    watermark prefers.
    """

    num_tokens: int
    num_green: int
    gamma: float

    @property
    def green_share(self) -> float:
        """Share of green tokens. The share is about gamma in a text without a watermark."""
        return self.num_green / self.num_tokens

    @property
    def z_score(self) -> float:
        """Number of standard deviations above the expected count of green tokens.

        A text without watermark exceeds 4 with a probability of about 1 in 30,000.
        """
        expected = self.gamma * self.num_tokens
        return (self.num_green - expected) / math.sqrt(expected * (1 - self.gamma))


def detect_watermark(
    token_ids: Sequence[int], num_prompt_tokens: int, vocab_size: int, gamma: float = 0.5
) -> WatermarkEvidence:
    """Count the green tokens in the output.

    `token_ids` are the prompt and the output. `vocab_size` is the model's vocabulary size, and
    `gamma` is the watermark setting of the server. Raises `ValueError` if the prompt or the output
    is empty.
    """
    if not 0 < num_prompt_tokens < len(token_ids):
        raise ValueError(
            f"a prompt and an output are needed. Given: {num_prompt_tokens} of {len(token_ids)}"
            " tokens are the prompt"
        )
    pairs = list(
        zip(token_ids[num_prompt_tokens - 1 :], token_ids[num_prompt_tokens:], strict=False)
    )
    num_green = sum(
        bool(green_tokens(previous, vocab_size, gamma)[token]) for previous, token in pairs
    )
    return WatermarkEvidence(len(pairs), num_green, gamma)
