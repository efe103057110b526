"""Faults that only large batches, long sequences, high ids and long runs show."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from tests.conformance.faults.cached import (
    CACHED,
    CachedModel,
    in_cached,
    in_cached_output,
    in_cached_steps,
)
from tests.conformance.faults.wrappers import FaultyBackend, struct


def rolled(logits):
    return np.roll(logits, 1, axis=-1)


def last_row_wrong(above):
    def change(logits, batch):
        if batch.num_rows > above:
            logits = np.concatenate([logits[:-1], rolled(logits[-1:])])
        return logits

    return in_cached(None, change)


def wrong_above_tokens(above):
    return in_cached(
        None, lambda logits, batch: rolled(logits) if len(batch.token_ids) > above else logits
    )


def tokens_lost_above(above):
    """The tokens of a step after this many are not stored."""

    def change(batch):
        place = np.arange(len(batch.token_ids))
        return replace(batch, token_ids=np.where(place < above, batch.token_ids, 0))

    return in_cached(change)


def blocks(change_id):
    """Each block has the id `change_id(id)` in the cache."""

    def change(batch):
        size = batch.block_size
        return replace(
            batch,
            slot_mapping=change_id(batch.slot_mapping // size) * size + batch.slot_mapping % size,
            block_tables=tuple(change_id(table) for table in batch.block_tables),
        )

    return in_cached(change)


def positions(change_position):
    return in_cached(lambda batch: replace(batch, positions=change_position(batch.positions)))


def mixers(change):
    """Change each attention: `change(mixer, layer)`."""

    def change_spec(spec):
        stack = spec.stacks[0]
        layers = []
        for index, layer in enumerate(stack.layers):
            blocks = [
                struct(
                    block,
                    branches=tuple(
                        (
                            struct(branch, mixer=change(branch.mixer, index))
                            if hasattr(branch.mixer, "num_kv_heads")
                            else branch
                        )
                        for branch in block.branches
                    ),
                )
                for block in layer.blocks
            ]
            layers.append(struct(layer, blocks=tuple(blocks)))
        return struct(spec, stacks=(struct(stack, layers=tuple(layers)),))

    return FaultyBackend(change_spec, make_model=CachedModel)


def large_heads_wrong(mixer, layer):
    return struct(mixer, scale=mixer.scale * 1.4) if mixer.head_dim > 64 else mixer


def deep_layers_wrong(mixer, layer):
    return struct(mixer, rope=struct(mixer.rope, theta=2e4)) if layer >= 4 else mixer


def token_ids(change_id):
    return in_cached(lambda batch: replace(batch, token_ids=change_id(batch.token_ids)))


def high_logits_lost(logits, batch):
    logits[:, 1 << 16 :] = logits.min()
    return logits


def sampled_ids(change_id):
    return in_cached_output(
        lambda output, step: struct(output, tokens=change_id(output.tokens).astype(np.int32))
    )


def high_bias_lost():
    def of(new):
        kept = tuple((t, b) for t, b in new.sampling.logit_bias if t < 1 << 15)
        return struct(new, sampling=struct(new.sampling, logit_bias=kept))

    return lambda step: struct(step, added=[of(new) for new in step.added])


def high_mask_words_lost():
    def change(step):
        if step.masks is None or not len(step.masks.row):
            return step
        words = step.masks.words.reshape(len(step.masks.row), -1).copy()
        if words.shape[1] > 1 << 10:
            words[:, 1 << 10 :] = 0
            words[:, 0] |= (~words.any(axis=1)).astype(np.int32) << 5
        return struct(step, masks=struct(step.masks, words=words.reshape(-1)))

    return change


def masks_of_later_rows_lost():
    def change(step):
        if step.masks is None:
            return step
        width = len(step.masks.words) // max(len(step.masks.row), 1)
        words = step.masks.words.reshape(-1, width).copy()
        words[step.masks.row >= 32] = -1
        return struct(step, masks=struct(step.masks, words=words.reshape(-1)))

    return change


def draws_of_later_rows_constant():
    def change(step):
        draw = step.rows.draw.copy()
        draw[32:] = 0.5
        return struct(step, rows=struct(step.rows, draw=draw))

    return change


def handles_in_a_byte():
    return lambda step: struct(
        step,
        added=[struct(new, sequence=new.sequence % 256) for new in step.added],
        dropped=[handle % 256 for handle in step.dropped],
        rows=struct(step.rows, sequence=step.rows.sequence % np.int32(256)),
    )


def later_chunk_lost(batch):
    """The first token of a prefill chunk that begins after position 256 is not stored."""
    ids = batch.token_ids.copy()
    starts = batch.cu_seqlens_q[:-1]
    is_late = (batch.positions[starts] > 256) & (np.diff(batch.cu_seqlens_q) > 1)
    ids[starts[is_late]] = 0
    return replace(batch, token_ids=ids)


def late_outputs_wrong(above):
    """After this many output tokens, a sequence repeats the next id."""

    def worker():
        counts, steps = {}, []

        def submit(inner, step):
            for new in step.added:
                counts[new.sequence] = 0
            steps.append(step)
            inner.submit(step)

        def collect(inner):
            output, tokens = inner.collect(), None
            for row, handle in enumerate(output.sequence.tolist()):
                first, last = output.token_ptr[row : row + 2].tolist()
                counts[handle] += last - first
                if counts[handle] > above:
                    tokens = output.tokens.copy() if tokens is None else tokens
                    tokens[first:last] = (tokens[first:last] + 1) % 384
            return output if tokens is None else struct(output, tokens=tokens)

        return {"submit": submit, "collect": collect}

    return FaultyBackend(worker=worker, make_model=CachedModel)


def after_steps(count, effect):
    """`effect(output)` changes each result after this many steps."""

    def worker():
        steps = []

        def collect(inner):
            steps.append(None)
            output = inner.collect()
            return effect(output) if len(steps) > count else output

        return {"collect": collect}

    return FaultyBackend(worker=worker, make_model=CachedModel)


def crash(output):
    raise RuntimeError("the device is lost")


def next_ids(output):
    return struct(output, tokens=((output.tokens + 1) % 384).astype(np.int32))


def keeping_in_steps(keep):
    """`keep(step)` returns what the worker never releases."""

    def worker():
        kept = []

        def submit(inner, step):
            kept.append(keep(step))
            inner.submit(step)

        return {"submit": submit}

    return FaultyBackend(worker=worker, make_model=CachedModel)


def open_files():
    opened = []

    def keep(step):
        if step.step_id % 100 == 0:
            opened.append(os.open(os.devnull, os.O_RDONLY))

    return keep


def step_ids_in_32_bits(output, step):
    return struct(output, step_id=output.step_id & 0xFFFFFFFF)


def halved_logprobs(output, step):
    return struct(output, logprobs=output.logprobs.astype(np.float16).astype(np.float32))


BORDER_FAULTS = {
    "last row wrong above 8": (last_row_wrong(8), "C-61d"),
    "last row wrong above 24": (last_row_wrong(24), "C-61d"),
    "last row wrong above 63": (last_row_wrong(63), "C-61d"),
    "draws of rows above 32 constant": (in_cached_steps(draws_of_later_rows_constant), "C-61d"),
    "masks of rows above 32 lost": (in_cached_steps(masks_of_later_rows_lost), "C-61d"),
    "handles in 8 bits": (in_cached_steps(handles_in_a_byte), "C-61d"),
    "step ids in 32 bits": (in_cached_output(step_ids_in_32_bits), "C-61d"),
    "steps above 256 tokens wrong": (wrong_above_tokens(256), "C-61e"),
    "steps above 600 tokens wrong": (wrong_above_tokens(600), "C-61e"),
    "tokens of a step after the 1,000th lost": (tokens_lost_above(1000), "C-61e"),
    "the last token of the largest step lost": (tokens_lost_above(1023), "C-61e"),
    "block ids modulo 256": (blocks(lambda ids: ids % 256), "C-61f"),
    "block ids modulo 1,024": (blocks(lambda ids: ids % 1024), "C-61f"),
    "block ids above 1,023 clamped": (blocks(lambda ids: np.minimum(ids, 1023)), "C-61f"),
    "the highest block is the one before": (
        blocks(lambda ids: np.where(ids == 2047, 2046, ids)),
        "C-61f",
    ),
    "large heads wrong": (mixers(large_heads_wrong), "C-61a"),
    "layers after the fourth wrong": (mixers(deep_layers_wrong), "C-61a"),
    "positions above 255 wrong": (positions(lambda p: np.minimum(p, 255)), "C-61a"),
    "positions above 1,000 wrong": (positions(lambda p: np.where(p > 1000, p + 1, p)), "C-61a"),
    "later chunks lose a token": (in_cached(later_chunk_lost), "C-61a"),
    "long outputs wrong above 200": (late_outputs_wrong(200), "C-61b"),
    "long outputs wrong above 600": (late_outputs_wrong(600), "C-61b"),
    "token ids in 15 bits": (token_ids(lambda ids: ids & 0x7FFF), "C-61c"),
    "token ids in 16 bits": (token_ids(lambda ids: ids & 0xFFFF), "C-61c"),
    "sampled ids in 15 bits": (sampled_ids(lambda ids: ids & 0x7FFF), "C-61c"),
    "sampled ids in 16 bits": (sampled_ids(lambda ids: ids & 0xFFFF), "C-61c"),
    "logits above 65,535 lost": (in_cached(None, high_logits_lost), "C-61c"),
    "bias on high ids lost": (in_cached_steps(high_bias_lost), "C-61c"),
    "mask words of high ids lost": (in_cached_steps(high_mask_words_lost), "C-61c"),
    "crash after 1,000 steps": (after_steps(1000, crash), "C-62a"),
    "wrong tokens after 2,000 steps": (after_steps(2000, next_ids), "C-62a"),
    "64 KiB leaked per step": (keeping_in_steps(lambda step: np.ones(1 << 13)), "C-62a"),
    "files leaked": (keeping_in_steps(open_files()), "C-62a"),
    "block tables kept": (
        keeping_in_steps(lambda step: [new.block_tables[0] for new in step.added]),
        "C-62b",
    ),
    "handles of dropped sequences kept": (
        keeping_in_steps(lambda step: [str(handle) * 20 for handle in step.dropped]),
        "C-62b",
    ),
    "log probabilities in 16 bits": (in_cached_output(halved_logprobs), "C-44a"),
}
"""Fault → the backend with the fault, and the check that must detect it."""

HEALTHY_AT_BORDERS = {check_id: CACHED for _, check_id in BORDER_FAULTS.values()}
