"""Builds the output of a step whose rows are sampled one at a time."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend.records import (
    Float32Array,
    ModelRunnerOutput,
    PooledVector,
    PromptScores,
    RowError,
    SchedulerOutput,
    StepTimes,
    empty_float32,
    empty_int32,
)
from tgi.worker.sampling import SampledToken, best_tokens, log_softmax, sample_row, unpack_mask
from tgi.worker.sequences import SequenceState
from tgi.worker.step_checks import mask_words

__all__ = ["StepResult", "is_scored", "prompt_scores", "row_masks"]


@final
class StepResult:
    """The tokens, scores, pooled vectors and errors of one step. Rows are sampled in order."""

    def __init__(self, num_rows: int) -> None:
        self._chosen: list[SampledToken] = []
        self._counts = np.zeros(num_rows + 1, np.int32)
        self.errors: list[RowError] = []
        self.scores: list[PromptScores] = []
        self.pooled: list[PooledVector] = []

    def sample(
        self,
        row: int,
        state: SequenceState,
        length: int,
        logits: Float32Array,
        *,
        draw: float,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> int | None:
        """Sample the token of a row at position `length` and store the token in the sequence. If no
        token can be sampled, add a `RowError` and return None.
        """
        prompt_ids, output_ids = np.split(state.tokens[:length], [state.num_prompt_tokens])
        try:
            chosen = sample_row(
                logits, state.sampling, prompt_ids, output_ids, draw=draw, allowed=allowed
            )
        except ValueError as error:
            self.errors.append(RowError(state.handle, str(error)))
            return None
        self._chosen.append(chosen)
        self._counts[row + 1] += 1
        state.tokens[length] = chosen.token_id
        return chosen.token_id

    def output(self, step: SchedulerOutput, times: StepTimes) -> ModelRunnerOutput:
        """Return the output of the step."""
        top = [pair for chosen in self._chosen for pair in chosen.top]
        top_counts = [0, *(len(chosen.top) for chosen in self._chosen)]
        return ModelRunnerOutput(
            step_id=step.step_id,
            sequence=step.rows.sequence,
            token_ptr=self._counts.cumsum(dtype=np.int32),
            tokens=np.array([chosen.token_id for chosen in self._chosen], np.int32),
            logprobs=np.array(
                [np.nan if c.logprob is None else c.logprob for c in self._chosen], np.float32
            ),
            top_ptr=np.cumsum(top_counts, dtype=np.int32) if top else empty_int32(),
            top_ids=np.array([token for token, _ in top], np.int32) if top else empty_int32(),
            top_logprobs=(
                np.array([logprob for _, logprob in top], np.float32) if top else empty_float32()
            ),
            prompt_scores=self.scores,
            errors=self.errors,
            times=times,
            pooled=self.pooled,
        )


def is_scored(state: SequenceState, start: int) -> bool:
    """Whether a row that starts at position `start` has prompt positions to score."""
    return state.sampling.prompt_logprobs and start < state.num_prompt_tokens


def prompt_scores(
    state: SequenceState, start: int, count: int, logits: Float32Array
) -> list[PromptScores]:
    """Return the scores of the prompt positions in a row with logits [count, vocab_size], and the
    top tokens of these positions if the sequence requests top tokens. The score of the row's first
    position is computed from `state.prompt_tail`, which contains the last logits of the preceding
    chunk.
    """
    last = min(start + count, state.num_prompt_tokens)
    before = [] if state.prompt_tail is None else [state.prompt_tail]
    first = start + 1 - len(before)
    state.prompt_tail = logits[-1].copy() if start + count < state.num_prompt_tokens else None
    rows = [log_softmax(row.astype(np.float64)) for row in [*before, *logits][: last - first]]
    if not rows:
        return []
    values = [row[state.tokens[first + i]] for i, row in enumerate(rows)]
    count = state.sampling.top_n_tokens
    tops = [best_tokens(row, count)[:count] for row in rows] if count > 0 else []
    top_values = [row[ids] for row, ids in zip(rows, tops, strict=False)]
    return [
        PromptScores(
            state.handle,
            first,
            np.array(values, np.float32),
            np.array(tops, np.int32).reshape(-1),
            np.array(top_values, np.float32).reshape(-1),
        )
    ]


def row_masks(step: SchedulerOutput, vocab_size: int) -> dict[int, list[npt.NDArray[np.bool_]]]:
    """Return the masks [vocab_size] of allowed tokens by row. A row has one mask for each token
    that may be sampled.
    """
    allowed: dict[int, list[npt.NDArray[np.bool_]]] = {}
    masks = mask_words(step, vocab_size)
    if masks is not None:
        for row, words in zip(masks[0].tolist(), masks[1], strict=True):
            mask = unpack_mask(np.ascontiguousarray(words), vocab_size)
            allowed.setdefault(row, []).append(mask)
    return allowed
