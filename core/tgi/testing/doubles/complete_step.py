"""Runs one step of the complete backends, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.backend import Float32Array, Int32Array, PooledVector, RowError, SchedulerOutput
from tgi.testing.reference.caches import Caches, RowCache
from tgi.testing.reference.network import ReferenceNetwork, pool
from tgi.worker.layout import StepLayout, fill_tokens, lay_out
from tgi.worker.sequences import SequenceState, SequenceTable
from tgi.worker.step_result import StepResult, is_scored, prompt_scores, row_masks

__all__ = ["run_step"]


@final
@dataclass(frozen=True)
class _Row:
    """One row of a step."""

    number: int
    state: SequenceState
    cache: RowCache
    start: int
    tokens: Int32Array
    is_sampled: bool
    draws: list[float]  # one for each token that may be sampled for the row
    draft_tokens: list[int]
    # One mask for each token that may be sampled for the row. Empty if the row is unconstrained.
    masks: list[npt.NDArray[np.bool_]]

    @property
    def end(self) -> int:
        """Position after the row's last token."""
        return self.start + len(self.tokens)


def run_step(
    step: SchedulerOutput,
    table: SequenceTable,
    network: ReferenceNetwork,
    caches: Caches,
) -> StepResult:
    """Run the rows of a step, whose sequences are in `table`."""
    result = StepResult(step.rows.num_rows)
    masks = row_masks(step, network.spec.vocab_size)
    if not step.rows.num_rows:
        return result
    layout = lay_out(step.rows, table)
    table.num_computed_tokens[layout.indices] = layout.lengths
    for row in _rows(step, layout, table, masks, caches):
        num_chosen = _run_row(row, network, caches, result)
        table.num_computed_tokens[row.state.index] += max(num_chosen - 1, 0)
        row.cache.store(row.end + max(num_chosen - 1, 0))
    return result


def _rows(
    step: SchedulerOutput,
    layout: StepLayout,
    table: SequenceTable,
    masks: dict[int, list[npt.NDArray[np.bool_]]],
    caches: Caches,
) -> list[_Row]:
    rows = step.rows
    tokens = fill_tokens(rows.tokens, layout, table).astype(np.int32)
    max_tokens = rows.max_tokens if len(rows.max_tokens) else np.ones(rows.num_rows, np.int32)
    extra_ends = np.cumsum(max_tokens - 1)
    made = []
    for row, state in enumerate(layout.states):
        extra = rows.extra_draw[extra_ends[row] - max_tokens[row] + 1 : extra_ends[row]]
        draft_tokens = (
            rows.draft[rows.draft_ptr[row] : rows.draft_ptr[row + 1]].tolist()
            if len(rows.draft_ptr)
            else []
        )
        made.append(
            _Row(
                row,
                state,
                RowCache(
                    caches.blocks if table.has_blocks else None,
                    table.block_tables[state.index, : table.num_blocks[state.index]],
                    caches.states if table.has_states else None,
                    int(table.states[state.index]),
                    int(layout.starts[row]),
                ),
                int(layout.starts[row]),
                tokens[layout.ends[row] - layout.counts[row] : layout.ends[row]],
                bool(rows.sample[row]),
                [float(rows.draw[row]), *extra.tolist()],
                draft_tokens,
                masks.get(row, []),
            )
        )
    return made


def _run_row(
    row: _Row,
    network: ReferenceNetwork,
    caches: Caches,
    result: StepResult,
) -> int:
    """Run one row. Returns the number of sampled tokens."""
    state, new = row.state, row.state.new
    if state.has_failed:
        message = "an earlier step with a row of this sequence failed"
        result.errors.append(RowError(new.sequence, message))
        return 0
    cache = row.cache
    cache.write(row.start, row.tokens)
    if new.adapter not in network.adapters:
        result.errors.append(RowError(new.sequence, f"the adapter {new.adapter} is not loaded"))
        return 0
    if new.pooling != "none":
        if row.end == len(new.tokens):
            hidden = network.hidden(new, cache.read(row.end))
            result.pooled.append(PooledVector(new.sequence, pool(hidden, new.pooling)))
        return 0

    is_row_scored = is_scored(state, row.start)
    first = row.start if is_row_scored else row.end - 1

    def logits(num_tokens: int) -> Float32Array:
        encoder_tokens = new.encoder_tokens
        if network.has_encoder:
            encoder_tokens = caches.encoder.read(new.block_tables[1], len(encoder_tokens))
        return network.logits(new, cache.read(num_tokens), encoder_tokens, first)

    cache.write(row.end, row.draft_tokens)
    known = logits(row.end + len(row.draft_tokens))
    if is_row_scored:
        result.scores += prompt_scores(state, row.start, len(row.tokens), known[: len(row.tokens)])
    for place, draw in enumerate(row.draws if row.is_sampled else ()):
        mask = row.masks[place] if row.masks else None
        length = row.end + place
        token = result.sample(
            row.number, state, length, known[length - 1 - first], draw=draw, allowed=mask
        )
        if token is None:
            return place
        if place + 1 == len(row.draws):
            break
        if row.draft_tokens and token != row.draft_tokens[place]:
            return place + 1
        if not row.draft_tokens:
            cache.write(length, [token])
            known = logits(length + 1)
    return len(row.draws) if row.is_sampled else 0
