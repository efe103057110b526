"""Backends with one fault each. The model's and the worker's faults are wrapped around the numpy
reference.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from tgi.backend import (
    BackendError,
    DeviceInfo,
    GrammarMasks,
    Health,
    MemoryItem,
    ModelError,
    ProbeResult,
    RowError,
    StepError,
    StepTimes,
    Support,
    WrongStateError,
    empty_int32,
)
from tgi.testing.doubles.reference_backend import ReferenceBackend, ReferenceModel
from tgi.worker.adapter import AdapterPlan, adapter_worker
from tgi.worker.step_worker import StepWorker

struct = msgspec.structs.replace
DEVICE_BYTES = 1 << 30
PROGRAM = b"compiled"
PLAN = AdapterPlan(
    max_total_tokens=1024, max_sequences=64, max_step_tokens=1024, max_cache_tokens=1 << 15
)


@dataclass
class FaultyModel:
    """`ReferenceModel` with its batch or its logits changed."""

    inner: ReferenceModel
    change_batch: Callable = lambda batch: batch
    change_logits: Callable = lambda logits, batch: logits
    on_close: Callable = lambda: None

    @property
    def vocab_size(self):
        return self.inner.vocab_size

    def load(self, progress):
        self.inner.load(progress)

    def allocate(self, num_sequence_slots, progress):
        self.inner.allocate(num_sequence_slots, progress)

    def forward(self, batch):
        return self.change_logits(self.inner.forward(self.change_batch(batch)), batch)

    def close(self):
        self.on_close()
        self.inner.close()


@dataclass
class FaultyWorker:
    """A worker whose calls can be changed one by one: `changes` maps a method to `change(inner,
    *arguments)`.
    """

    inner: StepWorker
    changes: dict[str, Callable] = field(default_factory=dict)

    def _call(self, name, *arguments):
        change = self.changes.get(name)
        return (
            getattr(self.inner, name)(*arguments)
            if change is None
            else change(self.inner, *arguments)
        )

    def load(self):
        return self._call("load")

    def negotiate(self, requested):
        return self._call("negotiate", requested)

    def warmup(self):
        return self._call("warmup")

    def submit(self, step):
        return self._call("submit", step)

    def collect(self):
        return self._call("collect")

    def control(self, request):
        return self._call("control", request)

    def health(self, deep):
        return self._call("health", deep)

    def close(self):
        return self._call("close")


@dataclass
class FaultyBackend:
    """The reference, with a fault in the model, in the worker or in the light half."""

    change_spec: Callable = lambda spec: spec
    model: Callable[[], dict] = dict
    worker: Callable[[], dict] = dict
    light: dict = field(default_factory=dict)
    reporter: Callable = lambda reporter: reporter
    plan: AdapterPlan = PLAN
    change_config: Callable = lambda config: (
        config
    )  # what the reference is asked whether it supports
    change_for: Callable | None = None  # the backend that makes the worker, by its config

    @property
    def info(self):
        return self.light.get("info", lambda info: info)(ReferenceBackend().info)

    def probe(self):
        return self.light.get("probe", ReferenceBackend().probe)()

    def supports(self, spec, config):
        return self.light.get("supports", ReferenceBackend().supports)(
            spec, self.change_config(config)
        )

    def create_worker(self, config, reporter):
        if self.change_for is not None:
            return self.change_for(config).create_worker(config, reporter)
        reference = ReferenceModel(self.change_spec(config.spec), Path(config.model_path))
        model = FaultyModel(reference, **self.model())
        return FaultyWorker(
            adapter_worker(model, self.plan, self.reporter(reporter)), self.worker()
        )


def attention(**changes):
    """The spec with every attention changed; a callable is given the old value."""

    def change(spec):
        stack = spec.stacks[0]
        layers = []
        for layer in stack.layers:
            blocks = []
            for block in layer.blocks:
                branches = tuple(
                    (
                        struct(branch, mixer=changed(branch.mixer))
                        if hasattr(branch.mixer, "num_kv_heads")
                        else branch
                    )
                    for branch in block.branches
                )
                blocks.append(struct(block, branches=branches))
            layers.append(struct(layer, blocks=tuple(blocks)))
        return struct(spec, stacks=(struct(stack, layers=tuple(layers)),))

    def changed(mixer):
        return struct(
            mixer, **{name: value(getattr(mixer, name)) for name, value in changes.items()}
        )

    return change


def in_model(change_batch=None, change_logits=None, **more):
    parts = {"change_batch": change_batch, "change_logits": change_logits} | more
    return FaultyBackend(model=lambda: {name: part for name, part in parts.items() if part})


def in_steps(change):
    """Each step is changed before the worker sees it; `change` is made anew for each worker and may
    remember.
    """

    def worker():
        changed = change()
        return {"submit": lambda inner, step: inner.submit(changed(step))}

    return FaultyBackend(worker=worker)


def in_output(change):
    """Each result is changed; `change(output, step)`."""

    def worker():
        steps = []

        def submit(inner, step):
            inner.submit(step)
            steps.append(step)

        def collect(inner):
            output = inner.collect()
            return output if output is None else change(output, steps.pop(0))

        return {"submit": submit, "collect": collect}

    return FaultyBackend(worker=worker)


def in_sampling(change):
    """Each sequence is introduced with other sampling parameters."""

    def change_step(step):
        return struct(
            step, added=[struct(new, sampling=change(new.sampling)) for new in step.added]
        )

    return in_steps(lambda: change_step)


def in_worker(**changes):
    return FaultyBackend(worker=lambda: dict(changes))


# Faults of the model


def off_by_one_block(batch):
    """The first token of every block but the first goes where the last one of the block before
    is.
    """
    slots = batch.slot_mapping.copy()
    is_border = (batch.positions % batch.block_size == 0) & (batch.positions > 0)
    slots[is_border] = slots[is_border] - 1
    return replace(batch, slot_mapping=slots)


def chunk_border_lost(batch):
    """The last token of a row that wants no logits is not written."""
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
    """The highest block is written into the one before, as if one block fewer had been
    allocated.
    """
    highest = 8 * 128 - batch.block_size
    return replace(
        batch,
        slot_mapping=np.where(
            batch.slot_mapping >= highest, batch.slot_mapping - 16, batch.slot_mapping
        ),
    )


# Faults of steps


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
        """Who gets a handle that was used before gets its sampling, too."""
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
    """Draws move one row on: what a generator of the backend's own, shared by the batch, would
    do.
    """
    return lambda step: struct(step, rows=struct(step.rows, draw=np.roll(step.rows.draw, 1)))


def mask_ignored():
    return lambda step: struct(step, mask="none", masks=None)


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
    """Blocks of a prefix hit are taken for the sequence's own and begin with zeros: as if they were
    never read.
    """
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


# Faults of results


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


def cut_ties(output, step):
    """No more top tokens than were asked for."""
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
    """Of the kit's tied tokens the highest."""
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


# Faults of the worker


def ignores_wrong_state(name):
    def change(inner, *arguments):
        try:
            return getattr(inner, name)(*arguments)
        except WrongStateError:
            return None

    return {name: change}


def always_healthy(inner, deep):
    return Health(True)


def disturbing_health(inner, deep):
    if deep and inner.health(False).ok:
        inner._part._model.inner._slots[:] = 7
    return inner.health(False)


def more_than_requested(inner, requested):
    agreement = inner.negotiate(requested)
    return struct(
        agreement,
        limits=struct(agreement.limits, max_total_tokens=agreement.limits.max_total_tokens * 2),
    )


def vocabulary_rounded_up(inner, requested):
    agreement = inner.negotiate(requested)
    return struct(agreement, vocab_size=agreement.vocab_size + 16)


def unknown_feature(inner, requested):
    agreement = inner.negotiate(requested)
    return struct(agreement, features=(*agreement.features, "telepathy"))


def every_feature_it_has(inner, requested):
    return inner.negotiate(struct(requested, features=PLAN.features))


def accepts_more_sequences(inner, step):
    inner._part._agreement = struct(
        inner._part._agreement, limits=struct(inner._part._agreement.limits, max_sequences=1 << 20)
    )
    inner.submit(step)


def forgets_outstanding(inner, step):
    inner._pending.take()
    inner.submit(step)


def breaks_after_refusal():
    state = {"broken": False}

    def collect(inner):
        if state["broken"]:
            raise StepError("gone", retryable=False)
        try:
            return inner.collect()
        except StepError:
            state["broken"] = True
            raise

    return {"collect": collect}


def second_close_fails():
    closed = []

    def close(inner):
        if closed:
            raise ValueError("closed already")
        closed.append(True)
        inner.close()

    return {"close": close}


def leave_a_thread():
    threading.Thread(target=threading.Event().wait, args=(3.0,), daemon=True).start()


def load_says_nothing(inner):
    inner._reporter = type("Silent", (), {"progress": lambda *_: None, "log": lambda *_: None})()
    inner.load()


def swallow_model_errors(inner):
    try:
        inner.load()
    except ModelError as error:
        raise RuntimeError("it did not work") from error


def write_beside_the_model(inner):
    (Path(inner._part._model.inner._path) / "cache.bin").write_bytes(b"1")
    inner.load()


def change_signals(inner):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    inner.load()


# Faults of masks, memory, quantization and shards


def late_masks_not_awaited(inner, step):
    if not isinstance(step, GrammarMasks):
        inner.submit(struct(step, mask="none") if step.mask == "late" else step)


def late_masks_of_the_next_row(inner, step):
    if isinstance(step, GrammarMasks) and inner._pending._steps[0].rows.num_rows > 1:
        step = struct(step, row=np.roll(step.row, 1))
    inner.submit(step)


def half_the_slots():
    return lambda step: struct(
        step, added=[struct(new, sequence_slot=new.sequence_slot // 2) for new in step.added]
    )


def lost_device(inner):
    """Each step needs memory; without any the device is lost."""
    try:
        output = inner.collect()
        np.empty(1 << 30, np.uint8)
    except (StepError, MemoryError) as error:
        raise StepError("lost", retryable=False) from error
    return output


def probe_with_memory():
    return ProbeResult(True, devices=(DeviceInfo("numpy", "numpy", DEVICE_BYTES),))


def with_memory(worker=dict, model=dict):
    """On a device of 1 GiB whose cache takes 1 KiB a token, and which keeps to the fraction of
    it.
    """

    def supports(spec, config):
        return struct(
            ReferenceBackend().supports(spec, config),
            memory=(MemoryItem("KV cache of one token", 1024),),
        )

    def negotiate(fraction):
        def change(inner, requested):
            if (requested.max_batch_total_tokens or 0) * 1024 > fraction * DEVICE_BYTES:
                raise BackendError("no memory for it")
            return inner.negotiate(requested)

        return change

    def for_config(config):
        changes = {"negotiate": negotiate(config.memory_fraction)} | worker()
        return FaultyBackend(worker=lambda: changes, model=model)

    return FaultyBackend(
        light={"probe": probe_with_memory, "supports": supports}, change_for=for_config
    )


def agrees_beyond_the_fraction(inner, requested):
    return struct(inner.negotiate(requested), memory=(MemoryItem("KV cache", DEVICE_BYTES // 2),))


def agrees_to_any_cache(inner, requested):
    return inner.negotiate(struct(requested, max_batch_total_tokens=None))


def takes_more_than_agreed(inner, deep):
    return struct(inner.health(deep), memory_bytes=DEVICE_BYTES // 8)


def take_host_memory(kept):
    """64 MiB that nobody agreed to."""

    def change(batch):
        kept.append(np.ones(1 << 23))
        return batch

    return change


def quantized(change_logits=lambda logits, batch: logits, told_bytes=400):
    """The reference, which calls itself int8."""

    def supports(spec, config):
        known = config.quantize in (None, "int8")
        support = ReferenceBackend().supports(
            spec, struct(config, quantize=None) if known else config
        )
        return struct(
            support, memory=(MemoryItem("weights", told_bytes if config.quantize else 1000),)
        )

    def for_config(config):
        return (
            FaultyBackend(model=lambda: {"change_logits": change_logits})
            if config.quantize
            else FaultyBackend()
        )

    return FaultyBackend(light={"supports": supports}, change_for=for_config)


def halved(logits, batch):
    return logits * np.float32(0.5)


def without_the_last_group(logits, batch):
    """What is left of a model whose sizes are no multiples of 64: its last columns are nobody's."""
    return logits - 3 * np.sin(np.arange(logits.shape[1], dtype=np.float32))


def quantized_in_whole_groups():
    """The same, wrong for models whose sizes no group divides."""

    def for_config(config):
        is_odd = config.spec.hidden_size % 64 > 0 and config.quantize is not None
        return quantized(without_the_last_group).change_for(config) if is_odd else FaultyBackend()

    return FaultyBackend(light=quantized().light, change_for=for_config)


def codes_are_numbers(inner):
    """Integers in the checkpoint are taken as they are."""
    path = Path(inner._part._model.inner._path) / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    inner.load()


def sharded(change_logits=lambda logits, batch: logits):
    """The reference, which calls itself sharded over two devices."""

    def one_shard(config):
        return struct(config, num_shard=1) if config.num_shard == 2 else config

    def for_config(config):
        return (
            FaultyBackend(model=lambda: {"change_logits": change_logits})
            if config.num_shard == 2
            else FaultyBackend()
        )

    return FaultyBackend(change_config=one_shard, change_for=for_config)


def second_half_missing(logits, batch):
    """The vocabulary's second half comes from another device, and does not."""
    logits[:, logits.shape[1] // 2 :] = logits.min()
    return logits


def keeping(name):
    """The reference, which keeps a program called `name()` in the cache folder, and reads it where
    it is there.
    """

    def for_config(config):
        path = Path(config.cache_dir) / name()

        def warmup(inner):
            if path.exists() and path.read_bytes() != PROGRAM:
                path.unlink()
            path.write_bytes(PROGRAM)
            inner.warmup()

        return FaultyBackend(worker=lambda: {"warmup": warmup})

    return FaultyBackend(change_for=for_config)


def believing_its_cache():
    def for_config(config):
        path = Path(config.cache_dir) / "program"

        def warmup(inner):
            if path.exists() and path.read_bytes() != PROGRAM:
                raise ValueError("this is no program")
            path.write_bytes(PROGRAM)
            inner.warmup()

        return FaultyBackend(worker=lambda: {"warmup": warmup})

    return FaultyBackend(change_for=for_config)


def sampling(**changes):
    return lambda params: struct(
        params, **{name: change(getattr(params, name)) for name, change in changes.items()}
    )


SLOTS = replace(PLAN, mode="slots", max_sequences=8, features=("logprobs",))

HEALTHY = {
    "C-14a": keeping(lambda: "program"),
    "C-14b": keeping(lambda: "program"),
    "C-13": with_memory(),
    "C-29": FaultyBackend(plan=SLOTS),
    "C-36a": quantized(),
    "C-36b": quantized(),
    "C-37": sharded(),
}
"""Check → the backend without a fault, where the plain reference cannot undergo it."""

FAULTS = {
    # what is kept for the next start
    "compiles at every start": (keeping(lambda: f"program-{time.monotonic_ns()}"), "C-14a"),
    "believes a damaged cache": (believing_its_cache(), "C-14b"),
    # memory, quantization, shards
    "agrees beyond the fraction": (
        with_memory(lambda: {"negotiate": agrees_beyond_the_fraction}),
        "C-13",
    ),
    "agrees to any cache": (with_memory(lambda: {"negotiate": agrees_to_any_cache}), "C-13"),
    "takes more than agreed": (with_memory(lambda: {"health": takes_more_than_agreed}), "C-13"),
    "takes memory of the host": (
        with_memory(model=lambda: {"change_batch": take_host_memory([])}),
        "C-13",
    ),
    "lost after a step without memory": (in_worker(collect=lost_device), "C-54"),
    "two sequences in a slot": (replace(in_steps(half_the_slots), plan=SLOTS), "C-29"),
    "quantized beyond recognition": (quantized(halved), "C-36a"),
    "quantized, yet as large": (quantized(told_bytes=1000), "C-36a"),
    "quantized in whole groups alone": (quantized_in_whole_groups(), "C-36b"),
    "codes taken for weights": (in_worker(load=codes_are_numbers), "C-36c"),
    "half of the vocabulary from one device": (sharded(second_half_missing), "C-37"),
    # masks
    "late masks ignored": (in_worker(submit=late_masks_not_awaited), "C-46b"),
    "late masks of the next row": (in_worker(submit=late_masks_of_the_next_row), "C-46b"),
    "watermark of nobody": (in_sampling(sampling(watermark_gamma=lambda _: 0.0)), "C-59b"),
    # model
    "wrong rope": (FaultyBackend(attention(rope=lambda rope: struct(rope, theta=1e6))), "C-17"),
    "rope of neighbours": (
        FaultyBackend(attention(rope=lambda rope: struct(rope, interleaved=True))),
        "C-31",
    ),
    "rope scaling ignored": (
        FaultyBackend(attention(rope=lambda rope: rope and struct(rope, scaling=None))),
        "C-32",
    ),
    "window off by one": (
        FaultyBackend(attention(window=lambda window: window and window + 1)),
        "C-33",
    ),
    "no causality": (FaultyBackend(attention(causal=lambda _: False)), "C-34"),
    "block off by one": (in_model(off_by_one_block), "C-17"),
    "chunk border loses a token": (in_model(chunk_border_lost), "C-23"),
    "unsampled rows leave nothing": (in_model(chunk_border_lost), "C-22"),
    "rows mixed up": (in_model(None, rows_mixed_up), "C-19"),
    "NaN spreads": (in_model(None, nan_spreads), "C-35"),
    "one block fewer than agreed": (in_model(last_slot_lost), "C-12"),
    "close leaves a thread": (in_model(on_close=leave_a_thread), "C-15"),
    # steps
    "lost drop": (in_steps(lost_drops), "C-21"),
    "state leaks with the handle": (in_steps(leaked_sampling), "C-21"),
    "stale block table": (in_steps(stale_block_table), "C-18"),
    "draw ignored": (in_steps(constant_draw), "C-40a"),
    "draw of another row": (in_steps(draw_by_row), "C-42a"),
    "mask ignored": (in_steps(mask_ignored), "C-46a"),
    "mask of the next row": (in_steps(mask_of_the_next_row), "C-46a"),
    "copies ignored": (in_steps(copies_ignored), "C-28b"),
    "prefix hits read elsewhere": (in_steps(hits_ignored), "C-28a"),
    "tokens on the device are zero": (in_steps(tokens_on_device_are_zero), "C-50b"),
    "output counts as prompt": (in_steps(output_counts_as_prompt), "C-41"),
    # sampling
    "temperature ignored": (in_sampling(sampling(temperature=lambda _: 1.0)), "C-40a"),
    "top_k off by one": (in_sampling(sampling(top_k=lambda k: k and k + 1)), "C-40a"),
    "top_p ignored": (in_sampling(sampling(top_p=lambda _: 1.0)), "C-40a"),
    "typical_p ignored": (in_sampling(sampling(typical_p=lambda _: 1.0)), "C-40a"),
    "min_p ignored": (in_sampling(sampling(min_p=lambda _: 0.0)), "C-40a"),
    "repetition penalty ignored": (in_sampling(sampling(repetition_penalty=lambda _: 1.0)), "C-41"),
    "presence taken for frequency": (
        in_sampling(
            lambda p: struct(
                p, presence_penalty=p.frequency_penalty, frequency_penalty=p.presence_penalty
            )
        ),
        "C-41",
    ),
    "logit bias on the next id": (
        in_sampling(
            sampling(logit_bias=lambda bias: tuple((token + 1, value) for token, value in bias))
        ),
        "C-41",
    ),
    "watermark ignored": (in_sampling(sampling(watermark_gamma=lambda _: 0.0)), "C-41"),
    "raw and processed exchanged": (
        in_sampling(
            sampling(logprobs=lambda m: {"raw": "processed", "processed": "raw"}.get(m, m))
        ),
        "C-44a",
    ),
    # results
    "ids in the wrong order": (in_output(reversed_ids), "C-20"),
    "token without sample": (in_output(token_without_sample), "C-22"),
    "wrong log probability": (in_output(wrong_logprob), "C-44a"),
    "top tokens ascending": (in_output(wrong_top_order), "C-44a"),
    "top tokens of wrong ids": (in_output(wrong_top_ids), "C-44a"),
    "prompt scores at the next position": (in_output(scores_off_by_one), "C-45"),
    "prompt scores rolled": (in_output(scores_rolled), "C-45"),
    "ties of top tokens cut": (in_output(cut_ties), "C-44b"),
    "tie takes the highest id": (in_output(tie_takes_the_highest), "C-39"),
    "compile not announced": (in_output(unannounced_compile), "C-47"),
    "times longer than the clock": (in_output(boasted_times), "C-49"),
    "a row is missing": (in_output(missing_row), "C-19"),
    "an error of one row fails all": (in_output(error_for_everybody), "C-35"),
    # worker
    "wrong state accepted": (FaultyBackend(worker=lambda: ignores_wrong_state("warmup")), "C-09"),
    "second close fails": (FaultyBackend(worker=second_close_fails), "C-57"),
    "health always true": (in_worker(health=always_healthy), "C-53a"),
    "deep health computes nothing": (
        in_worker(health=lambda inner, deep: inner.health(False)),
        "C-53b",
    ),
    "deep health disturbs": (in_worker(health=disturbing_health), "C-53a"),
    "more than wished": (in_worker(negotiate=more_than_requested), "C-11"),
    "vocabulary rounded up": (in_worker(negotiate=vocabulary_rounded_up), "C-11"),
    "unknown feature": (in_worker(negotiate=unknown_feature), "C-11"),
    "features that were not requested": (in_worker(negotiate=every_feature_it_has), "C-11b"),
    "more sequences than agreed accepted": (in_worker(submit=accepts_more_sequences), "C-26"),
    "does not recover from a refusal": (FaultyBackend(worker=breaks_after_refusal), "C-26"),
    "depth not enforced": (in_worker(submit=forgets_outstanding), "C-50a"),
    "progress not reported": (in_worker(load=load_says_nothing), "C-10a"),
    "error names nothing": (in_worker(load=swallow_model_errors), "C-10b"),
    "writes beside the model": (in_worker(load=write_beside_the_model), "C-16"),
    "changes signal handlers": (in_worker(load=change_signals), "C-16"),
    # light half
    "other name": (FaultyBackend(light={"info": lambda info: struct(info, name="other")}), "C-02"),
    "future seam": (FaultyBackend(light={"info": lambda info: struct(info, api=(1, 99))}), "C-02"),
    "supports everything": (
        FaultyBackend(light={"supports": lambda *_: Support("native")}),
        "C-06",
    ),
    "refuses without a reason": (
        FaultyBackend(light={"supports": lambda *_: Support("no")}),
        "C-06",
    ),
}
"""Fault → the backend that has it, and the check that must catch it."""
