"""The result of a step, looked up row by row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

from tgi.backend import ModelRunnerOutput, PromptScores
from tgi.scheduler.records import TokenOutput
from tgi.scheduler.sequence import Sequence

__all__ = ["StepResult", "next_prompt_logprobs"]


@final
@dataclass(slots=True, frozen=True)
class StepResult:
    """A `ModelRunnerOutput` as Python lists, which are read faster than arrays one element at a
    time.
    """

    tokens: list[list[TokenOutput]]  # [rows of the step] what each row chose
    errors: dict[int, str]  # by handle
    scores: dict[int, PromptScores]  # by handle

    @classmethod
    def of(cls, output: ModelRunnerOutput, handles: list[int]) -> StepResult:
        """Read `output`, whose rows are those of the step in any order. Raises RuntimeError if one
        is missing.
        """
        chosen, ptr = _tokens(output), output.token_ptr.tolist()
        tokens = [chosen[first:last] for first, last in pairwise(ptr)]
        returned = output.sequence.tolist()
        if returned != handles:
            token_of = dict(zip(returned, tokens, strict=True))
            missing = [handle for handle in handles if handle not in token_of]
            if missing:
                raise RuntimeError(
                    f"the worker returned step {output.step_id} without the rows of sequences"
                    f" {missing}"
                )
            tokens = [token_of[handle] for handle in handles]
        return cls(
            tokens=tokens,
            errors={error.sequence: error.message for error in output.errors},
            scores={scores.sequence: scores for scores in output.prompt_scores},
        )


def _tokens(output: ModelRunnerOutput) -> list[TokenOutput]:
    """Every chosen token. A log probability that is NaN is none."""
    ids = output.tokens.tolist()
    logprobs = [value if value == value else None for value in output.logprobs.tolist()]  # noqa: PLR0124 - NaN test
    ptr = output.top_ptr.tolist()
    if not ptr:
        return list(map(TokenOutput, ids, logprobs))
    top = list(zip(output.top_ids.tolist(), output.top_logprobs.tolist(), strict=True))
    tops = [tuple(top[first:last]) for first, last in pairwise(ptr)]
    return list(map(TokenOutput, ids, logprobs, tops))


def next_prompt_logprobs(sequence: Sequence, scores: PromptScores | None) -> list[float | None]:
    """The prompt logprobs that `scores` adds to those already sent; they count as sent from now on.

    Position 0 has none and goes out first. Positions scored again after a preemption are left out.
    """
    if sequence.is_prompt_scored or (scores is None and sequence.num_prompt_tokens > 1):
        return []
    news: list[float | None] = [] if sequence.num_sent_prompt_logprobs else [None]
    if scores is not None:
        skipped = sequence.num_sent_prompt_logprobs + len(news) - scores.start
        if skipped < 0:
            raise RuntimeError(
                f"prompt scores start at position {scores.start}, {-skipped} later than those sent"
                " before end"
            )
        news += [None if value != value else value for value in scores.logprobs.tolist()[skipped:]]  # noqa: PLR0124 - NaN test
    sequence.num_sent_prompt_logprobs += len(news)
    return news
