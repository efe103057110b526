"""The result of a step, looked up row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from tgi.backend import ModelRunnerOutput, PromptScores
from tgi.scheduler.records import TokenOutput
from tgi.scheduler.sequence import Sequence
from tgi.scheduler.step import Row

__all__ = ["StepResult", "next_prompt_logprobs"]


@final
@dataclass(slots=True, frozen=True)
class StepResult:
    """A `ModelRunnerOutput` as Python lists, which are read faster than arrays one element at a time."""

    token_ptr: list[int]
    tokens: list[int]
    logprobs: list[float]
    top_ptr: list[int]
    top_ids: list[int]
    top_logprobs: list[float]
    errors: dict[int, str]
    scores: dict[int, PromptScores]
    positions: list[int]  # [rows of the step] where the worker put each row

    @classmethod
    def of(cls, output: ModelRunnerOutput, rows: list[Row]) -> StepResult:
        """Read `output`, whose rows are those of the step in any order. Raises RuntimeError if one is missing."""
        handles = [row.handle for row in rows]
        returned = output.sequence.tolist()
        positions = list(range(len(handles)))
        if returned != handles:
            position_of = {handle: position for position, handle in enumerate(returned)}
            missing = [handle for handle in handles if handle not in position_of]
            if missing:
                raise RuntimeError(f"the worker returned step {output.step_id} without the rows of sequences {missing}")
            positions = [position_of[handle] for handle in handles]
        return cls(
            token_ptr=output.token_ptr.tolist(),
            tokens=output.tokens.tolist(),
            logprobs=output.logprobs.tolist(),
            top_ptr=output.top_ptr.tolist(),
            top_ids=output.top_ids.tolist(),
            top_logprobs=output.top_logprobs.tolist(),
            errors={error.sequence: error.message for error in output.errors},
            scores={scores.sequence: scores for scores in output.prompt_scores},
            positions=positions,
        )

    def token(self, row: int) -> TokenOutput | None:
        """The token that row `row` of the step chose; None if it chose none."""
        position = self.positions[row]
        index = self.token_ptr[position]
        if index == self.token_ptr[position + 1]:
            return None
        logprob = self.logprobs[index]
        top: tuple[tuple[int, float], ...] = ()
        if self.top_ptr:
            first, last = self.top_ptr[index], self.top_ptr[index + 1]
            top = tuple(zip(self.top_ids[first:last], self.top_logprobs[first:last], strict=True))
        return TokenOutput(self.tokens[index], logprob if logprob == logprob else None, top)  # noqa: PLR0124 - NaN test


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
            raise RuntimeError(f"prompt scores start at position {scores.start}, {-skipped} later than those sent before end")
        news += [None if value != value else value for value in scores.logprobs.tolist()[skipped:]]  # noqa: PLR0124 - NaN test
    sequence.num_sent_prompt_logprobs += len(news)
    return news
