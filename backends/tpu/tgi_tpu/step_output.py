"""Builds the output of a step from the results of the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import jax
import msgspec
import numpy as np

from tgi.backend import (
    Float32Array,
    Int32Array,
    ModelRunnerOutput,
    PromptScores,
    SchedulerOutput,
    StepTimes,
    empty_int32,
)
from tgi.worker import step_output as worker_output
from tgi.worker.buckets import StepShape
from tgi.worker.layout import StepLayout
from tgi.worker.sequences import Int64Array
from tgi.worker.step_output import SampledTokens as HostTokens
from tgi.worker.step_output import empty_output, step_output
from tgi_tpu.sampling.sampler import NOT_FINITE, NOTHING_ALLOWED, SampledTokens

__all__ = ["PendingScores", "step_result"]

_PROBLEMS: Mapping[int, str] = MappingProxyType(
    {NOT_FINITE: worker_output.NOT_FINITE, NOTHING_ALLOWED: worker_output.NOTHING_ALLOWED}
)


@final
@dataclass(frozen=True)
class PendingScores:
    """The prompt tokens that a step scores. Token `targets[i]` is scored after the step's token
    `indices[i]`. Tokens are ordered by sequence.
    """

    handles: list[int]
    starts: list[int]  # position of each sequence's first scored token
    counts: list[int]
    num_tops: list[int]  # number of top tokens that each sequence requests
    indices: Int32Array
    targets: Int32Array
    # The results of `score_prompt_tokens` for all targets, in padded parts of equal length.
    parts: list[tuple[jax.Array, jax.Array, jax.Array]] = field(default_factory=list)

    @classmethod
    def of(cls, layout: StepLayout) -> PendingScores | None:
        """Return the scored prompt positions that follow a position of the step. Returns None if
        there are no such positions.
        """
        scores = cls([], [], [], [], empty_int32(), empty_int32())
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
            scores.num_tops.append(state.sampling.top_n_tokens)
            indices.append(firsts[row] + np.arange(last - start - 1))
            targets.append(state.prompt[start + 1 : last])
        if not targets:
            return None
        return cls(
            scores.handles,
            scores.starts,
            scores.counts,
            scores.num_tops,
            np.concatenate(indices).astype(np.int32),
            np.concatenate(targets),
        )

    def records(
        self, parts: Sequence[tuple[Float32Array, Int32Array, Float32Array]]
    ) -> list[PromptScores]:
        """Return one record per sequence. `parts` are the arrays of the field, on the host."""
        ends = np.cumsum(self.counts)[:-1]
        logprobs, top_ids, top_logprobs = (
            np.split(np.concatenate(arrays)[: len(self.targets)], ends)
            for arrays in zip(*parts, strict=True)
        )
        return [
            PromptScores(
                handle,
                self.starts[i],
                logprobs[i],
                top_ids[i][:, : self.num_tops[i]].reshape(-1),
                top_logprobs[i][:, : self.num_tops[i]].reshape(-1),
            )
            for i, handle in enumerate(self.handles)
        ]


def step_result(
    step: SchedulerOutput,
    sampled: Int64Array,  # rows that sample a token, in the order of `chosen`
    chosen: SampledTokens | None,  # on the host, padded; None if no row sampled a token
    *,
    scores: list[PromptScores],
    times: StepTimes,
    shape: StepShape | None,  # None if the step had no rows
) -> ModelRunnerOutput:
    """Return the output of a step. Each sampled row without a problem has one token."""
    if chosen is None:
        output = empty_output(step, scores, times)
    else:
        output = step_output(step, _without_padding(chosen, len(sampled)), sampled, scores, times)
    if shape is None:
        return output
    return msgspec.structs.replace(output, shape=shape.label, num_padded_tokens=shape.num_tokens)


def _without_padding(chosen: SampledTokens, num_rows: int) -> HostTokens:
    """Return the first `num_rows` rows with their top tokens, row after row."""
    counts = np.asarray(chosen.top_counts)[:num_rows]
    top_ids = np.asarray(chosen.top_ids)[:num_rows]
    is_top = np.arange(top_ids.shape[1]) < counts[:, None]
    problems = np.asarray(chosen.problems)[:num_rows]
    return HostTokens(
        tokens=np.asarray(chosen.tokens)[:num_rows],
        logprobs=np.asarray(chosen.logprobs)[:num_rows],
        top_counts=counts,
        top_ids=top_ids[is_top],
        top_logprobs=np.asarray(chosen.top_logprobs)[:num_rows][is_top],
        problems={int(row): _PROBLEMS[int(problems[row])] for row in np.flatnonzero(problems)},
    )
