"""Builds the output of a step from arrays with one sampled token per row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tgi.backend.records import (
    Float32Array,
    Int32Array,
    ModelRunnerOutput,
    PromptScores,
    RowError,
    SchedulerOutput,
    StepTimes,
    empty_float32,
    empty_int32,
)

__all__ = ["NOTHING_ALLOWED", "NOT_FINITE", "SampledTokens", "empty_output", "step_output"]

NOTHING_ALLOWED = "the grammar or the logit bias allows no token here"
NOT_FINITE = "the model computed NaN or infinite logits for this sequence"


class SampledTokens(NamedTuple):
    """One sampled token per row, in numpy arrays.

    The top tokens of all rows are concatenated. The top tokens of one row are in descending order
    of logprob.
    """

    tokens: Int32Array  # [rows]; undefined for the rows in `problems`
    logprobs: Float32Array  # [rows]; NaN if not requested
    top_counts: Int32Array  # [rows]
    top_ids: Int32Array  # [sum(top_counts)]
    top_logprobs: Float32Array
    # Maps a row without a token to the reason for which it has no token.
    problems: dict[int, str]


def empty_output(
    step: SchedulerOutput, scores: list[PromptScores], times: StepTimes
) -> ModelRunnerOutput:
    """Return the output of a step that sampled no token."""
    ids, logprobs = empty_int32(), empty_float32()
    token_ptr = np.zeros(step.rows.num_rows + 1, np.int32)
    return ModelRunnerOutput(
        step.step_id,
        step.rows.sequence,
        token_ptr,
        ids,
        logprobs,
        ids,
        ids,
        logprobs,
        prompt_scores=scores,
        times=times,
    )


def step_output(
    step: SchedulerOutput,
    chosen: SampledTokens,
    sampled: npt.NDArray[np.int64],  # [rows of `chosen`], rows of the step
    scores: list[PromptScores],
    times: StepTimes,
) -> ModelRunnerOutput:
    """Return the output of a step. Each of the `sampled` rows has one token, or a `RowError` if the
    row is in `chosen.problems`.
    """
    rows = step.rows
    errors = [
        RowError(int(rows.sequence[sampled[i]]), problem) for i, problem in chosen.problems.items()
    ]
    if errors:
        good = np.ones(len(sampled), np.bool_)
        good[list(chosen.problems)] = False
        chosen, sampled = _select(chosen, good), sampled[good]
    token_ptr = np.zeros(rows.num_rows + 1, np.int32)
    token_ptr[1 + sampled] = 1
    has_tops = len(chosen.top_ids) > 0
    return ModelRunnerOutput(
        step_id=step.step_id,
        sequence=rows.sequence,
        token_ptr=token_ptr.cumsum(dtype=np.int32),
        tokens=chosen.tokens,
        logprobs=chosen.logprobs,
        top_ptr=(
            np.append(np.int32(0), chosen.top_counts.cumsum(dtype=np.int32))
            if has_tops
            else empty_int32()
        ),
        top_ids=chosen.top_ids,
        top_logprobs=chosen.top_logprobs,
        prompt_scores=scores,
        errors=errors,
        times=times,
    )


def _select(chosen: SampledTokens, good: npt.NDArray[np.bool_]) -> SampledTokens:
    """Return the tokens of the rows for which `good` is True."""
    tops = np.repeat(good, chosen.top_counts)
    return SampledTokens(
        tokens=chosen.tokens[good],
        logprobs=chosen.logprobs[good],
        top_counts=chosen.top_counts[good],
        top_ids=chosen.top_ids[tops],
        top_logprobs=chosen.top_logprobs[tops],
        problems={},
    )
