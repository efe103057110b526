"""One step of the complete backend, row after row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend import Float32Array, Int32Array, PooledVector, RowError, SchedulerOutput
from tgi.testing.reference.network import ReferenceNetwork, TokenCache, pool
from tgi.worker.adapter_step import StepResult, is_scored, note_tokens, prompt_scores, row_masks
from tgi.worker.live_sequences import LiveSequence

__all__ = ["run_step"]


@final
@dataclass(frozen=True)
class _Row:
    """A row of a step, with all that the arrays say about it."""

    number: int
    sequence: LiveSequence
    start: int
    tokens: Int32Array
    is_sampled: bool
    draws: list[float]  # one for each token that it may choose
    draft_tokens: list[int]
    masks: list[npt.NDArray[np.bool_]]  # one for each token that it may choose, or none

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + len(self.tokens)


def run_step(
    step: SchedulerOutput,
    sequences: list[LiveSequence],
    network: ReferenceNetwork,
    cache: TokenCache,
    encoder_cache: TokenCache,
) -> StepResult:
    """Run the rows, whose `sequences` have their blocks."""
    result = StepResult(step.rows.num_rows)
    for row in _rows(step, sequences, network.spec.vocab_size):
        _run_row(row, network, cache, encoder_cache, result)
    return result


def _rows(step: SchedulerOutput, sequences: list[LiveSequence], vocab_size: int) -> list[_Row]:
    rows, masks = step.rows, row_masks(step, vocab_size)
    max_tokens = rows.max_tokens if len(rows.max_tokens) else np.ones(rows.num_rows, np.int32)
    ends, extra_ends = np.cumsum(rows.count), np.cumsum(max_tokens - 1)
    made = []
    for row, sequence in enumerate(sequences):
        extra = rows.extra_draw[extra_ends[row] - max_tokens[row] + 1 : extra_ends[row]]
        draft_tokens = (
            rows.draft[rows.draft_ptr[row] : rows.draft_ptr[row + 1]].tolist()
            if len(rows.draft_ptr)
            else []
        )
        tokens = rows.tokens[ends[row] - rows.count[row] : ends[row]]
        draws = [float(rows.draw[row]), *extra.tolist()]
        made.append(
            _Row(
                row,
                sequence,
                int(rows.start[row]),
                tokens,
                bool(rows.sample[row]),
                draws,
                draft_tokens,
                masks.get(row, []),
            )
        )
    return made


def _run_row(
    row: _Row,
    network: ReferenceNetwork,
    cache: TokenCache,
    encoder_cache: TokenCache,
    result: StepResult,
) -> None:
    sequence, new = row.sequence, row.sequence.new
    note_tokens(sequence, row.start, row.tokens)
    cache.write(sequence.block_table, row.start, sequence.tokens[row.start : row.end])
    if new.adapter not in network.adapters:
        result.errors.append(RowError(new.sequence, f"the adapter {new.adapter} is not loaded"))
        return
    if new.pooling != "none":
        if row.end == len(new.tokens):
            hidden = network.hidden(new, cache.read(sequence.block_table, row.end))
            result.pooled.append(PooledVector(new.sequence, pool(hidden, new.pooling)))
        return

    def logits(num_tokens: int) -> Float32Array:
        encoder_tokens = new.encoder_tokens
        if network.has_encoder:
            encoder_tokens = encoder_cache.read(new.block_tables[1], len(encoder_tokens))
        return network.logits(new, cache.read(sequence.block_table, num_tokens), encoder_tokens)

    cache.write(sequence.block_table, row.end, row.draft_tokens)
    known = logits(row.end + len(row.draft_tokens))
    if is_scored(sequence, row.start):
        result.scores += prompt_scores(
            sequence, row.start, len(row.tokens), known[row.start : row.end]
        )
    for place, draw in enumerate(row.draws if row.is_sampled else ()):
        mask = row.masks[place] if row.masks else None
        token = result.sample(row.number, sequence, known[row.end - 1 + place], draw, mask)
        if token is None or place + 1 == len(row.draws):
            return
        if row.draft_tokens and token != row.draft_tokens[place]:
            return
        if not row.draft_tokens:
            cache.write(sequence.block_table, row.end + place, [token])
            known = logits(row.end + place + 1)
