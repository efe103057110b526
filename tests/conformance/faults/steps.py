"""Faults in computing a step and in its result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.conformance.faults.wrappers import struct
from tgi.backend import RowError, StepError, StepTimes, empty_int32


def off_by_one_block(batch):
    """The first token of each later block is stored in the last place of the block before it."""
    slots = batch.slot_mapping.copy()
    is_border = (batch.positions % batch.block_size == 0) & (batch.positions > 0)
    slots[is_border] = slots[is_border] - 1
    return replace(batch, slot_mapping=slots)


def chunk_border_lost(batch):
    """The last token of a row without logits is not written."""
    ends = batch.cu_seqlens_q[1:] - 1
    unwanted = ends[~np.isin(ends, batch.logits_indices)]
    kept = np.setdiff1d(np.arange(len(batch.token_ids)), unwanted)
    return replace(
        batch,
        token_ids=np.where(np.isin(np.arange(len(batch.token_ids)), kept), batch.token_ids, 0),
    )


def rows_mixed_up(logits, batch):
    return logits[::-1] if batch.num_rows > 1 else logits


def nan_spreads(logits, batch):
    return np.full_like(logits, np.nan) if np.isnan(logits).any() else logits


def last_slot_lost(batch):
    """The highest block is written to the one before, as if one block less were allocated."""
    highest = 8 * 128 - batch.block_size
    return replace(
        batch,
        slot_mapping=np.where(
            batch.slot_mapping >= highest, batch.slot_mapping - 16, batch.slot_mapping
        ),
    )


def lost_drops():
    dropped = []

    def change(step):
        """Drops take effect one step late."""
        late, dropped[:] = dropped[:], step.dropped
        return struct(step, dropped=late)

    return change


def leaked_sampling():
    first = {}

    def change(step):
        """A sequence with a reused handle gets the sampling parameters of the previous one."""
        return struct(
            step,
            added=[
                struct(new, sampling=first.setdefault(new.sequence, new.sampling))
                for new in step.added
            ],
        )

    return change


def stale_block_table():
    def change(step):
        rows = step.rows
        zeros = [np.zeros_like(blocks) for blocks in rows.new_blocks]
        return struct(step, rows=struct(rows, new_blocks=zeros))

    return change


def constant_draw():
    return lambda step: struct(step, rows=struct(step.rows, draw=np.full_like(step.rows.draw, 0.5)))


def draw_by_row():
    """Draws move by one row, as if the batch shared a random generator of the backend."""
    return lambda step: struct(step, rows=struct(step.rows, draw=np.roll(step.rows.draw, 1)))


def mask_ignored():
    return lambda step: struct(step, mask="none", masks=None)


def in_mask_words(change):
    """Change the words of the masks, int32 [masks, width], with `change(words)`, which modifies
    them.
    """

    def change_step(step):
        if step.masks is None or not len(step.masks.row):
            return step
        words = step.masks.words.reshape(len(step.masks.row), -1).copy()
        change(words)
        return struct(step, masks=struct(step.masks, words=words.reshape(-1)))

    return lambda: change_step


def no_token_means_every_token(words):
    words[~words.any(axis=1)] = -1


def no_token_fails_the_step(words):
    if not words.any(axis=1).all():
        raise StepError("no token is allowed", retryable=False)


def special_tokens_are_never_allowed(words):
    words[:, 0] &= ~0b1111


def last_token_of_a_mask_is_never_allowed(words):
    words[words.astype(bool).sum(axis=1) == 1] = 0


def words_above_a_mask_allow_everything(words):
    """The words after the last allowed token allow every token."""
    for mask in words:
        mask[np.flatnonzero(mask)[-1] + 1 :] = -1


def masks_end_with_a_whole_word(words):
    """The bits above the last allowed token of a word allow every token."""
    for mask in words:
        last = np.flatnonzero(mask)[-1]
        mask[last] = -1


def mask_of_the_next_row():
    def change(step):
        if step.masks is None or step.rows.num_rows < 2:
            return step
        moved = ((step.masks.row + 1) % step.rows.num_rows).astype(np.int32)
        return struct(step, masks=struct(step.masks, row=moved))

    return change


def copies_ignored():
    return lambda step: struct(step, copy_source=[], copy_target=[])


def hits_ignored():
    """The blocks of a prefix hit are not read: the sequence begins with zeros."""
    return lambda step: struct(
        step,
        added=[
            (
                struct(new, block_tables=[np.zeros_like(table) for table in new.block_tables])
                if new.num_computed_tokens
                else new
            )
            for new in step.added
        ],
    )


def tokens_on_device_are_zero():
    return lambda step: struct(step, rows=struct(step.rows, tokens=np.maximum(step.rows.tokens, 0)))


def output_counts_as_prompt():
    return lambda step: struct(
        step, added=[struct(new, num_prompt_tokens=len(new.tokens)) for new in step.added]
    )


def reversed_ids(output, step):
    return struct(output, sequence=output.sequence[::-1].copy())


def token_without_sample(output, step):
    count = len(output.sequence)
    if not count or len(output.tokens) == count:
        return output
    tokens = np.zeros(count, np.int32)
    ptr = np.arange(count + 1, dtype=np.int32)
    return struct(
        output,
        tokens=tokens,
        token_ptr=ptr,
        logprobs=np.zeros(count, np.float32),
        top_ptr=empty_int32(),
        errors=[],
    )


def wrong_logprob(output, step):
    return struct(output, logprobs=output.logprobs + np.float32(0.05))


def wrong_top_order(output, step):
    return struct(
        output, top_ids=output.top_ids[::-1].copy(), top_logprobs=output.top_logprobs[::-1].copy()
    )


def wrong_top_ids(output, step):
    return struct(output, top_ids=((output.top_ids + 1) % 384).astype(np.int32))


def scores_off_by_one(output, step):
    return struct(
        output, prompt_scores=[struct(s, start=s.start + 1) for s in output.prompt_scores]
    )


def scores_rolled(output, step):
    return struct(
        output,
        prompt_scores=[struct(s, logprobs=np.roll(s.logprobs, 1)) for s in output.prompt_scores],
    )


def scores_without_tops(output, step):
    """Return no top tokens of prompt positions, as a worker of an earlier interface version."""
    return struct(
        output,
        prompt_scores=[
            struct(s, top_ids=empty_int32(), top_logprobs=s.top_logprobs[:0])
            for s in output.prompt_scores
        ],
    )


def tops_of_the_next_position(output, step):
    return struct(
        output,
        prompt_scores=[
            struct(
                s,
                top_ids=np.roll(s.top_ids, -len(s.top_ids) // len(s.logprobs)),
                top_logprobs=np.roll(s.top_logprobs, -len(s.top_ids) // len(s.logprobs)),
            )
            for s in output.prompt_scores
        ],
    )


def tops_of_prompts_ascending(output, step):
    return struct(
        output,
        prompt_scores=[
            struct(s, top_ids=s.top_ids[::-1].copy(), top_logprobs=s.top_logprobs[::-1].copy())
            for s in output.prompt_scores
        ],
    )


def cut_ties(output, step):
    """Return no more top tokens than requested."""
    if not len(output.top_ptr):
        return output
    kept = [
        range(first, min(last, first + 2))
        for first, last in zip(output.top_ptr[:-1], output.top_ptr[1:], strict=True)
    ]
    index = np.array([i for part in kept for i in part], int)
    ptr = np.cumsum([0, *map(len, kept)], dtype=np.int32)
    return struct(
        output, top_ptr=ptr, top_ids=output.top_ids[index], top_logprobs=output.top_logprobs[index]
    )


def tie_takes_the_highest(output, step):
    """Choose the highest of the suite's tied tokens."""
    return struct(output, tokens=(output.tokens % 32 + 352).astype(np.int32))


def unannounced_compile(output, step):
    return struct(output, times=StepTimes(compile=10))


def boasted_times(output, step):
    return struct(output, times=StepTimes(forward=10**15))


def missing_row(output, step):
    return struct(output, sequence=output.sequence[:-1], token_ptr=output.token_ptr[:-1])


def error_for_everybody(output, step):
    if not output.errors:
        return output
    none = np.zeros_like(output.token_ptr)
    return struct(
        output,
        tokens=empty_int32(),
        logprobs=output.logprobs[:0],
        token_ptr=none,
        top_ptr=empty_int32(),
        errors=[RowError(int(handle), "one row failed") for handle in output.sequence],
    )


def half_the_slots():
    return lambda step: struct(
        step, added=[struct(new, sequence_slot=new.sequence_slot // 2) for new in step.added]
    )


def sampling(**changes):
    return lambda params: struct(
        params, **{name: change(getattr(params, name)) for name, change in changes.items()}
    )
