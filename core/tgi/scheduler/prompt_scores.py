"""The scores of the prompt positions that a step returns, without those that were sent before."""

from __future__ import annotations

from tgi.backend import PromptScores
from tgi.scheduler.sequence import Sequence

__all__ = ["NO_SCORES", "NewPromptScores", "next_prompt_scores"]

TopTokens = tuple[tuple[int, float], ...]


NewPromptScores = tuple[list[float | None], list[TopTokens]]
"""The logprobs and the top tokens of the next prompt positions. A logprob is None for position 0,
and if the device cannot compute it. The second list is empty if no position has top tokens.
"""

NO_SCORES: NewPromptScores = ([], [])


def next_prompt_scores(sequence: Sequence, scores: PromptScores | None) -> NewPromptScores:
    """Return the part of `scores` that has not been sent yet, and mark it as sent.

    Position 0 has no logprob and no top tokens. Positions that were scored again after a preemption
    are omitted. Raises RuntimeError if positions are missing, or if the number of top tokens is not
    a multiple of the number of positions.
    """
    if sequence.is_prompt_scored or (scores is None and sequence.num_prompt_tokens > 1):
        return NO_SCORES
    logprobs: list[float | None] = [] if sequence.num_sent_prompt_logprobs else [None]
    top: list[TopTokens] = [() for _ in logprobs]
    if scores is not None:
        skipped = sequence.num_sent_prompt_logprobs + len(logprobs) - scores.start
        if skipped < 0:
            raise RuntimeError(
                f"the worker returned prompt scores from position {scores.start}, but the scores of"
                f" the {-skipped} positions before it are missing"
            )
        values = scores.logprobs.tolist()[skipped:]
        logprobs += [value if value == value else None for value in values]  # noqa: PLR0124 - NaN test
        top += _top_tokens(scores)[skipped:]
    sequence.num_sent_prompt_logprobs += len(logprobs)
    return logprobs, top if any(top) else []


def _top_tokens(scores: PromptScores) -> list[TopTokens]:
    """Return the top tokens of each position. Tokens without a probability are omitted."""
    num_positions, num_tokens = len(scores.logprobs), len(scores.top_ids)
    if not num_tokens:
        return [()] * num_positions
    if not num_positions or num_tokens % num_positions or num_tokens != len(scores.top_logprobs):
        raise RuntimeError(
            f"the worker returned {num_tokens} top tokens with {len(scores.top_logprobs)} logprobs"
            f" for {num_positions} prompt positions"
        )
    pairs = list(zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True))
    count = num_tokens // num_positions
    return [
        tuple(pair for pair in pairs[first : first + count] if pair[1] > float("-inf"))
        for first in range(0, num_tokens, count)
    ]
