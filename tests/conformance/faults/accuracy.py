"""Faults of prefix hits, of 16-bit computation, and of reported sizes, times and dtypes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.conformance.faults.cached import (
    CACHED,
    HALF,
    HALF_PLAN,
    CachedModel,
    HalfModel,
    copying_only,
    in_cached_output,
    in_cached_steps,
    in_cached_worker,
)
from tests.conformance.faults.wrappers import FaultyBackend, attention, struct
from tgi.architectures.checkpoint import main_dtype, stored_tensors
from tgi.backend import MemoryItem, StepError, StepTimes


def shifted_after_hits(least, shift=1, **more):
    """After a prefix hit of at least this many tokens, each token is at a later position."""
    state = {}

    def worker():
        hits = set()

        def submit(inner, step):
            hits.difference_update(step.dropped)
            hits.update(new.sequence for new in step.added if new.num_computed_tokens >= least)
            state["is_hit"] = [handle in hits for handle in step.rows.sequence.tolist()]
            inner.submit(step)

        return {"submit": submit}

    def change(batch):
        is_hit = np.repeat(state["is_hit"], np.diff(batch.cu_seqlens_q))
        return replace(batch, positions=np.where(is_hit, batch.positions + shift, batch.positions))

    return FaultyBackend(
        worker=worker, model=lambda: {"change_batch": change}, make_model=CachedModel, **more
    )


def last_block_of_long_hits_lost():
    """The last block of a hit of five or more blocks is read from block 0."""

    def of(new):
        table = new.block_tables[0]
        count = new.num_computed_tokens // 16
        if count < 5:
            return new
        table = table.copy()
        table[count - 1] = table[0]
        return struct(new, block_tables=[table])

    return lambda step: struct(step, added=[of(new) for new in step.added])


def with_items(scale):
    """The agreement reports the memory of the weights and the cache, times `scale`."""

    def negotiate(inner, requested):
        agreement = inner.negotiate(requested)
        model = inner._part._model.inner
        weights = sum(array.nbytes for array in model._weights.values())
        token = sum(
            8 * mixer.num_kv_heads * mixer.head_dim
            for layer in model._spec.decoder.layers
            for mixer in (layer.blocks[0].branches[0].mixer,)
        )
        cache = token * agreement.kv_cache.max_batch_total_tokens
        items = {"weights": weights, "KV cache": cache}
        memory = tuple(
            MemoryItem(label, int(size * scale.get(label, 1))) for label, size in items.items()
        )
        return struct(agreement, memory=memory)

    return in_cached_worker(negotiate=negotiate)


def in_microseconds(output, step):
    times = output.times
    return struct(
        output,
        times=StepTimes(times.prepare // 1000, times.forward // 1000, times.sample // 1000),
    )


def rejects_before_drops(inner, step):
    """A step that is too large is rejected before its drops are read."""
    if step.rows.num_tokens > inner._agreement.limits.max_step_tokens:
        raise StepError("too many tokens", retryable=False)
    inner.submit(step)


def health_in_block(block):
    def health(inner, deep):
        if deep and inner.health(False).ok:
            model = inner._part._model.inner
            for cache in (*model._keys, *model._values):
                cache[block] = 0.5
        return inner.health(False)

    return in_cached_worker(health=health)


def draws_in_16_bits():
    return lambda step: struct(
        step,
        rows=struct(step.rows, draw=step.rows.draw.astype(np.float16).astype(np.float32)),
    )


def only_float32(inner):
    path = inner._part._model.inner._path
    if main_dtype(stored_tensors(path)) == "BF16":
        raise TypeError("data type 'bfloat16' not understood")
    inner.load()


def negotiated(**changes):
    return in_cached_worker(
        negotiate=lambda inner, requested: struct(inner.negotiate(requested), **changes)
    )


ACCURACY_FAULTS = {
    "positions off by one after a hit": (shifted_after_hits(1), "C-28a"),
    "positions off by one after hits of 64 tokens": (shifted_after_hits(64), "C-28a"),
    "positions off by one after hits of 96 tokens": (shifted_after_hits(96), "C-28a"),
    "positions before their own after a hit": (shifted_after_hits(1, shift=-1), "C-28a"),
    "the last block of long hits lost": (in_cached_steps(last_block_of_long_hits_lost), "C-28a"),
    "keys copied without values": (
        FaultyBackend(make_model=copying_only("_keys")(CachedModel)),
        "C-28b",
    ),
    "values copied without keys": (
        FaultyBackend(make_model=copying_only("_values")(CachedModel)),
        "C-28b",
    ),
    "keys copied without values in bfloat16": (
        FaultyBackend(make_model=copying_only("_keys")(HalfModel), plan=HALF_PLAN),
        "C-28b",
    ),
    "values copied without keys in bfloat16": (
        FaultyBackend(make_model=copying_only("_values")(HalfModel), plan=HALF_PLAN),
        "C-28b",
    ),
    "wrong rope in bfloat16": (
        replace(HALF, change_spec=attention(rope=lambda rope: struct(rope, theta=1e6))),
        "C-38b",
    ),
    "attention without its scale in bfloat16": (
        replace(HALF, change_spec=attention(scale=lambda scale: 1.2 * scale)),
        "C-38b",
    ),
    "bfloat16 called float32": (FaultyBackend(make_model=HalfModel), "C-17"),
    "bfloat16 called float16": (
        FaultyBackend(make_model=HalfModel, plan=replace(HALF_PLAN, dtype="float16")),
        "C-17",
    ),
    "bfloat16 checkpoints do not load": (in_cached_worker(load=only_float32), "C-38b"),
    "unknown dtype": (negotiated(dtype="bf16"), "C-11"),
    "two dtypes": (negotiated(facts={"dtype": "bfloat16"}), "C-11"),
    "a tenth of the cache reported": (with_items({"KV cache": 0.1}), "C-13b"),
    "a tenth of the weights reported": (with_items({"weights": 0.1}), "C-13b"),
    "times in microseconds": (in_cached_output(in_microseconds), "C-49"),
    "drops of a rejected step ignored": (in_cached_worker(submit=rejects_before_drops), "C-26b"),
    "deep health writes to the first block": (health_in_block(0), "C-53a"),
    "deep health writes to the last block": (health_in_block(8 * 128 - 16), "C-53a"),
    "draws in 16 bits": (in_cached_steps(draws_in_16_bits), "C-40c"),
}
"""Fault → the backend with the fault, and the check that must detect it."""

HEALTHY_ACCURACY = {check_id: CACHED for _, check_id in ACCURACY_FAULTS.values()} | {
    "C-13b": with_items({})
}
HALF_CHECKS = ("C-17", "C-28a", "C-28b", "C-38b", "C-44a", "C-61a")
"""Checks that a backend in bfloat16 must pass."""
