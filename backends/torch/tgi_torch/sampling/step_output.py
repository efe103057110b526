"""What was chosen in a step, in the records of the seam."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tgi.backend import (
    ModelRunnerOutput,
    PromptScores,
    RowError,
    SchedulerOutput,
    StepTimes,
    empty_float32,
    empty_int32,
)
from tgi_torch.sampling.protocols import SampledTokens

__all__ = ["empty_output", "step_output"]


def empty_output(
    step: SchedulerOutput, scores: list[PromptScores], times: StepTimes
) -> ModelRunnerOutput:
    """The answer to a step that chose no token."""
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
    sampled: npt.NDArray[np.int64],
    scores: list[PromptScores],
    times: StepTimes,
) -> ModelRunnerOutput:
    """The answer: one token for each of the `sampled` rows that has no problem."""
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
    """What was chosen for the good rows."""
    tops = np.repeat(good, chosen.top_counts)
    return SampledTokens(
        tokens=chosen.tokens[good],
        logprobs=chosen.logprobs[good],
        top_counts=chosen.top_counts[good],
        top_ids=chosen.top_ids[tops],
        top_logprobs=chosen.top_logprobs[tops],
        problems={},
    )
