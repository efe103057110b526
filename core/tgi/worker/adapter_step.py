"""One step of the level 0 adapter: rows into a flat batch, logits into tokens, scores and
errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend.errors import StepError
from tgi.backend.records import (
    TOKEN_ON_DEVICE,
    Float32Array,
    Int32Array,
    ModelRunnerOutput,
    PooledVector,
    PromptScores,
    RowError,
    SchedulerOutput,
    StepTimes,
    empty_float32,
    empty_int32,
)
from tgi.worker.live_sequences import LiveSequence
from tgi.worker.masks import mask_words
from tgi.worker.sampling import SampledToken, log_softmax, sample_row, unpack_mask

__all__ = [
    "AdapterStep",
    "ForwardBatch",
    "StepResult",
    "is_scored",
    "note_tokens",
    "prompt_scores",
    "row_masks",
    "run_rows",
]


@final
@dataclass(frozen=True)
class ForwardBatch:
    """The tokens of one step, flat: those of row 0, then those of row 1, … n rows, t tokens.

    A slot is the place of one token's keys and values: `block * block_size + offset`. Copies come
    first, then the keys and values of the tokens are written, then attention reads
    `context_slots(row)`.
    """

    token_ids: Int32Array  # [t]
    positions: Int32Array  # [t]
    slot_mapping: Int32Array  # [t]
    cu_seqlens_q: Int32Array  # [n + 1] first token of each row
    seq_lens: Int32Array  # [n] tokens of the sequence, those of this step included
    block_tables: tuple[Int32Array, ...]  # n arrays
    block_size: int
    logits_indices: Int32Array  # [k] tokens after which logits are wanted, ascending
    copy_source: Int32Array = field(default_factory=empty_int32)  # slots
    copy_target: Int32Array = field(default_factory=empty_int32)

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.seq_lens)

    def context_slots(self, row: int) -> Int32Array:
        """Slots [seq_lens[row]] of all tokens of a sequence, from position 0 on."""
        return _slots(
            self.block_tables[row], np.arange(self.seq_lens[row], dtype=np.int32), self.block_size
        )


@final
class AdapterStep:
    """Collects the rows of one step into a `ForwardBatch`."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._tokens: list[Int32Array] = []
        self._positions: list[Int32Array] = []
        self._slots: list[Int32Array] = []
        self._seq_lens: list[int] = []
        self._tables: list[Int32Array] = []
        self._logits: list[Int32Array] = []
        self._cu_seqlens_q = [0]
        self._copies = (empty_int32(), empty_int32())

    def add_row(
        self, tokens: Int32Array, start: int, table: Int32Array, wanted: npt.NDArray[np.int64]
    ) -> None:
        """Run `tokens` from position `start` on; logits are wanted after those at `wanted`, counted
        within the row.
        """
        positions = np.arange(start, start + len(tokens), dtype=np.int32)
        if len(table) * self._block_size < start + len(tokens):
            raise StepError(
                f"{start + len(tokens)} tokens do not fit {len(table)} blocks.", retryable=False
            )
        self._logits.append((self._cu_seqlens_q[-1] + wanted).astype(np.int32))
        self._tokens.append(tokens)
        self._positions.append(positions)
        self._slots.append(_slots(table, positions, self._block_size))
        self._seq_lens.append(start + len(tokens))
        self._tables.append(table)
        self._cu_seqlens_q.append(self._cu_seqlens_q[-1] + len(tokens))

    def copy_blocks(self, source: Int32Array, target: Int32Array) -> None:
        """Copy whole blocks before the rows run."""
        offsets = np.arange(self._block_size, dtype=np.int32)
        first, second = (
            (blocks[:, None] * self._block_size + offsets).reshape(-1).astype(np.int32)
            for blocks in (source, target)
        )
        self._copies = (first, second)

    def batch(self) -> ForwardBatch:
        """The batch."""
        return ForwardBatch(
            token_ids=_joined(self._tokens),
            positions=_joined(self._positions),
            slot_mapping=_joined(self._slots),
            cu_seqlens_q=np.array(self._cu_seqlens_q, np.int32),
            seq_lens=np.array(self._seq_lens, np.int32),
            block_tables=tuple(self._tables),
            block_size=self._block_size,
            logits_indices=_joined(self._logits),
            copy_source=self._copies[0],
            copy_target=self._copies[1],
        )


def run_rows(
    step: SchedulerOutput,
    sequences: list[LiveSequence],
    adapter_step: AdapterStep,
    forward: Callable[[ForwardBatch], Float32Array],
    vocab_size: int,
) -> Callable[[StepTimes], ModelRunnerOutput]:
    """Run the rows and choose their tokens; the result is the output, still without its times."""
    rows, masks = step.rows, row_masks(step, vocab_size)
    ends = np.cumsum(rows.count)
    scored = [
        is_scored(sequence, int(start))
        for sequence, start in zip(sequences, rows.start, strict=True)
    ]
    for row, sequence in enumerate(sequences):
        start, count = int(rows.start[row]), int(rows.count[row])
        note_tokens(sequence, start, rows.tokens[ends[row] - count : ends[row]])
        tokens = np.array(sequence.tokens[start : start + count], np.int32)
        wanted = (
            np.arange(count) if scored[row] else np.arange(count)[count - int(rows.sample[row]) :]
        )
        adapter_step.add_row(tokens, start, sequence.block_table, wanted)
    batch = adapter_step.batch()
    logits = forward(batch) if len(batch.token_ids) else np.empty((0, vocab_size), np.float32)
    result = StepResult(rows.num_rows)
    cursor = 0
    for row, sequence in enumerate(sequences):
        start, count = int(rows.start[row]), int(rows.count[row])
        wanted_count = count if scored[row] else int(rows.sample[row])
        own = logits[cursor : cursor + wanted_count]
        cursor += wanted_count
        if scored[row]:
            result.scores += prompt_scores(sequence, start, count, own)
        if rows.sample[row]:
            result.sample(
                row,
                sequence,
                own[-1],
                float(rows.draw[row]),
                masks[row][0] if row in masks else None,
            )
    return lambda times: result.output(step, times)


@final
class StepResult:
    """Tokens, scores, pooled vectors and errors of one step, whose rows are sampled in their
    order.
    """

    def __init__(self, num_rows: int) -> None:
        self._chosen: list[SampledToken] = []
        self._counts = np.zeros(num_rows + 1, np.int32)
        self.errors: list[RowError] = []
        self.scores: list[PromptScores] = []
        self.pooled: list[PooledVector] = []

    def sample(
        self,
        row: int,
        sequence: LiveSequence,
        logits: Float32Array,
        draw: float,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> int | None:
        """Choose the next token of a row; whatever is wrong with it concerns this row alone, and
        there is none.
        """
        params = sequence.new.sampling
        try:
            chosen = sample_row(
                logits, params, sequence.prompt_ids, sequence.output_ids, draw=draw, allowed=allowed
            )
        except ValueError as error:
            self.errors.append(RowError(sequence.new.sequence, str(error)))
            return None
        self._chosen.append(chosen)
        self._counts[row + 1] += 1
        sequence.tokens.append(chosen.token_id)
        return chosen.token_id

    def output(self, step: SchedulerOutput, times: StepTimes) -> ModelRunnerOutput:
        """The answer to the step."""
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


def note_tokens(sequence: LiveSequence, start: int, tokens: Int32Array) -> None:
    """Hold the row's tokens against those known; `TOKEN_ON_DEVICE` is known already."""
    for position, token in enumerate(tokens.tolist(), start):
        if position < len(sequence.tokens):
            sequence.tokens[position] = (
                sequence.tokens[position] if token == TOKEN_ON_DEVICE else token
            )
        elif position == len(sequence.tokens) and token != TOKEN_ON_DEVICE:
            sequence.tokens.append(token)
        else:
            raise StepError(
                f"Position {position} of sequence {sequence.new.sequence} follows no known token:"
                f" {len(sequence.tokens)} are.",
                retryable=False,
            )


def is_scored(sequence: LiveSequence, start: int) -> bool:
    """Whether a row from `start` on has prompt positions to score."""
    return sequence.new.sampling.prompt_logprobs and start < sequence.new.num_prompt_tokens


def prompt_scores(
    sequence: LiveSequence, start: int, count: int, logits: Float32Array
) -> list[PromptScores]:
    """Scores of the prompt positions in this row; the first comes from the logits that the chunk
    before left.
    """
    last = min(start + count, sequence.new.num_prompt_tokens)
    before = [] if sequence.tail is None else [sequence.tail]
    first = start + 1 - len(before)
    sequence.tail = logits[-1].copy() if start + count < sequence.new.num_prompt_tokens else None
    rows = [*before, *logits][: last - first]
    values = [
        log_softmax(row.astype(np.float64))[sequence.tokens[first + i]]
        for i, row in enumerate(rows)
    ]
    return (
        [PromptScores(sequence.new.sequence, first, np.array(values, np.float32))] if values else []
    )


def row_masks(step: SchedulerOutput, vocab_size: int) -> dict[int, list[npt.NDArray[np.bool_]]]:
    """Allowed tokens [vocab_size] of constrained rows, one mask for each token that the row may
    choose.
    """
    allowed: dict[int, list[npt.NDArray[np.bool_]]] = {}
    masks = mask_words(step, vocab_size)
    if masks is not None:
        for row, words in zip(masks[0].tolist(), masks[1], strict=True):
            mask = unpack_mask(np.ascontiguousarray(words), vocab_size)
            allowed.setdefault(row, []).append(mask)
    return allowed


def _slots(table: Int32Array, positions: Int32Array, block_size: int) -> Int32Array:
    slots: Int32Array = (
        table[positions // block_size] * block_size + positions % block_size
    ).astype(np.int32)
    return slots


def _joined(arrays: list[Int32Array]) -> Int32Array:
    return np.concatenate(arrays) if arrays else empty_int32()
