"""Results of the device in the records of the seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import jax
import numpy as np

from tgi.backend import (
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
from tgi.worker.buckets import StepShape
from tgi.worker.layout import StepLayout
from tgi.worker.sequences import Int64Array
from tgi_tpu.sampling.sampler import NOT_FINITE, NOTHING_ALLOWED, SampledTokens

__all__ = ["PendingScores", "step_output"]

_PROBLEMS: Mapping[int, str] = MappingProxyType(
    {
        NOT_FINITE: "the model computed NaN or infinite logits for this sequence",
        NOTHING_ALLOWED: "the grammar or the logit bias allows no token here",
    }
)


@final
@dataclass(frozen=True)
class PendingScores:
    """The prompt tokens that a step scores: token `targets[i]` after the step's token `indices[i]`,
    sequence by sequence.
    """

    handles: list[int]
    starts: list[int]  # position of each sequence's first scored token
    counts: list[int]
    indices: Int32Array
    targets: Int32Array
    logprobs: list[jax.Array] = field(
        default_factory=list
    )  # of all targets, in parts of one length, padded

    @classmethod
    def of(cls, layout: StepLayout) -> PendingScores | None:
        """Every position that follows one of the step's and is in a prompt to be scored; None if
        there is none.
        """
        scores = cls([], [], [], empty_int32(), empty_int32())
        indices, targets = list[Int64Array](), list[Int32Array]()
        firsts = layout.ends - layout.counts
        for row, state in enumerate(layout.states):
            start, last = (
                int(layout.starts[row]),
                min(int(layout.lengths[row]) + 1, state.num_prompt_tokens),
            )
            if not state.sampling.prompt_logprobs or last <= start + 1:
                continue
            scores.handles.append(state.handle)
            scores.starts.append(start + 1)
            scores.counts.append(last - start - 1)
            indices.append(firsts[row] + np.arange(last - start - 1))
            targets.append(state.prompt[start + 1 : last])
        if not targets:
            return None
        return cls(
            scores.handles,
            scores.starts,
            scores.counts,
            np.concatenate(indices).astype(np.int32),
            np.concatenate(targets),
        )

    def records(self, logprobs: Sequence[Float32Array]) -> list[PromptScores]:
        """By sequence. `logprobs` are the arrays of the field, on the host."""
        parts = np.split(np.concatenate(logprobs)[: len(self.targets)], np.cumsum(self.counts)[:-1])
        return [
            PromptScores(*scored) for scored in zip(self.handles, self.starts, parts, strict=True)
        ]


def step_output(
    step: SchedulerOutput,
    sampled: Int64Array,  # rows that choose a token, in the order of `chosen`
    chosen: SampledTokens | None,  # on the host, padded
    *,
    scores: list[PromptScores],
    times: StepTimes,
    shape: StepShape | None,  # None = the step had no rows
) -> ModelRunnerOutput:
    """The answer to a step: one token for each sampled row that has no problem."""
    rows = step.rows
    label, num_padded_tokens = ("", 0) if shape is None else (shape.label, shape.num_tokens)
    token_ptr = np.zeros(rows.num_rows + 1, np.int32)
    if chosen is None:
        ids, none = empty_int32(), empty_float32()
        return ModelRunnerOutput(
            step_id=step.step_id,
            sequence=rows.sequence,
            token_ptr=token_ptr,
            tokens=ids,
            logprobs=none,
            top_ptr=ids,
            top_ids=ids,
            top_logprobs=none,
            prompt_scores=scores,
            times=times,
            shape=label,
            num_padded_tokens=num_padded_tokens,
        )
    problems = np.asarray(chosen.problems)[: len(sampled)]
    good = np.flatnonzero(problems == 0)
    token_ptr[1 + sampled[good]] = 1
    counts = np.asarray(chosen.top_counts)[good]
    is_top = np.arange(chosen.top_ids.shape[1]) < counts[:, None]
    return ModelRunnerOutput(
        step_id=step.step_id,
        sequence=rows.sequence,
        token_ptr=token_ptr.cumsum(dtype=np.int32),
        tokens=np.asarray(chosen.tokens)[good],
        logprobs=np.asarray(chosen.logprobs)[good],
        top_ptr=(
            np.append(np.int32(0), counts.cumsum(dtype=np.int32)) if counts.any() else empty_int32()
        ),
        top_ids=np.asarray(chosen.top_ids)[good][is_top],
        top_logprobs=np.asarray(chosen.top_logprobs)[good][is_top],
        prompt_scores=scores,
        errors=[
            RowError(int(rows.sequence[sampled[i]]), _PROBLEMS[int(problems[i])])
            for i in np.flatnonzero(problems)
        ],
        times=times,
        shape=label,
        num_padded_tokens=num_padded_tokens,
    )
