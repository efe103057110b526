"""Reads the result of a step row by row."""

from __future__ import annotations

from itertools import pairwise
from typing import final

from tgi.backend import ModelRunnerOutput, PromptScores
from tgi.scheduler.sequence import Sequence

__all__ = ["ChosenTokens", "StepResult", "next_prompt_logprobs"]

TopTokens = tuple[tuple[int, float], ...]
ChosenTokens = tuple[list[int], list[float | None], list[TopTokens]]
"""The tokens that one row chose: ids, log probabilities, and top tokens (empty if none were asked
for), as `SequenceOutput` has them.
"""


@final
class StepResult:
    """The rows of a `ModelRunnerOutput` in the order of the step. Reading one element of a Python
    list is faster than of an array, so the arrays are converted once.
    """

    def __init__(self, output: ModelRunnerOutput, handles: list[int]) -> None:
        """Read `output`, whose rows are those of the step in any order. Raises RuntimeError if one
        is missing.
        """
        ids, logprobs, top = _all_tokens(output)
        self.tokens: list[ChosenTokens] = [  # of each row
            (ids[first:last], logprobs[first:last], top[first:last])
            for first, last in _token_ranges(output, handles)
        ]
        self.errors = {error.sequence: error.message for error in output.errors}  # by handle
        self.scores = {scores.sequence: scores for scores in output.prompt_scores}  # by handle


def _token_ranges(output: ModelRunnerOutput, handles: list[int]) -> list[tuple[int, int]]:
    """The first token of each row and the one after its last."""
    ranges = list(pairwise(output.token_ptr.tolist()))
    returned = output.sequence.tolist()
    if returned == handles:
        return ranges
    range_of = dict(zip(returned, ranges, strict=True))
    missing = [handle for handle in handles if handle not in range_of]
    if missing:
        raise RuntimeError(
            f"the worker returned step {output.step_id} without the rows of sequences {missing}"
        )
    return [range_of[handle] for handle in handles]


def _all_tokens(output: ModelRunnerOutput) -> ChosenTokens:
    """The tokens of all rows. A log probability that is NaN becomes None."""
    ids = output.tokens.tolist()
    logprobs = [value if value == value else None for value in output.logprobs.tolist()]  # noqa: PLR0124 - NaN test
    ptr = output.top_ptr.tolist()
    if not ptr:
        return ids, logprobs, []
    top = list(zip(output.top_ids.tolist(), output.top_logprobs.tolist(), strict=True))
    return ids, logprobs, [tuple(top[first:last]) for first, last in pairwise(ptr)]


def next_prompt_logprobs(sequence: Sequence, scores: PromptScores | None) -> list[float | None]:
    """The prompt log probabilities in `scores` that follow those already sent. They count as sent
    from now on.

    Position 0 has none and goes out first. Positions scored again after a preemption are left out.
    """
    if sequence.is_prompt_scored or (scores is None and sequence.num_prompt_tokens > 1):
        return []
    new_scores: list[float | None] = [] if sequence.num_sent_prompt_logprobs else [None]
    if scores is not None:
        skipped = sequence.num_sent_prompt_logprobs + len(new_scores) - scores.start
        if skipped < 0:
            raise RuntimeError(
                f"prompt scores start at position {scores.start}, {-skipped} later than those sent"
                " before end"
            )
        values = scores.logprobs.tolist()[skipped:]
        new_scores += [value if value == value else None for value in values]  # noqa: PLR0124 - NaN test
    sequence.num_sent_prompt_logprobs += len(new_scores)
    return new_scores
