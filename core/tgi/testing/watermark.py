"""Finds the watermark of a text: tokens that a watermarked text prefers turn up more often than
chance allows.

Source of the test: Kirchenbauer et al., "A Watermark for Large Language Models" (arXiv 2301.10226),
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
    """Tokens looked at, and those of them that a watermark prefers."""

    num_tokens: int
    num_green: int
    gamma: float

    @property
    def green_share(self) -> float:
        """Share of preferred tokens; about gamma in a text without watermark."""
        return self.num_green / self.num_tokens

    @property
    def z_score(self) -> float:
        """Standard deviations above what chance gives. Above 4, chance is out of the question (one
        in 30,000).
        """
        expected = self.gamma * self.num_tokens
        return (self.num_green - expected) / math.sqrt(expected * (1 - self.gamma))


def detect_watermark(
    token_ids: Sequence[int], num_prompt_tokens: int, vocab_size: int, gamma: float = 0.5
) -> WatermarkEvidence:
    """Look at the output of `token_ids` = prompt + output; `vocab_size` is the model's, `gamma` the
    server's.

    Raises `ValueError` without a prompt or without output, for then no token has one before it.
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
