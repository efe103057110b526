"""Faults in memory, quantization, sharding and the compilation cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.conformance.faults.wrappers import DEVICE_BYTES, PROGRAM, FaultyBackend, struct
from tgi.backend import BackendError, DeviceInfo, MemoryItem, ProbeResult
from tgi.testing.doubles.reference_backend import ReferenceBackend


def probe_with_memory():
    return ProbeResult(True, devices=(DeviceInfo("numpy", "numpy", DEVICE_BYTES),))


def with_memory(worker=dict, model=dict):
    """On a device of 1 GiB whose cache takes 1 KiB per token, and which respects the fraction."""

    def supports(spec, config):
        return struct(
            ReferenceBackend().supports(spec, config),
            memory=(MemoryItem("KV cache of one token", 1024),),
        )

    def negotiate(fraction):
        def change(inner, requested):
            if (requested.max_batch_total_tokens or 0) * 1024 > fraction * DEVICE_BYTES:
                raise BackendError("too little memory")
            return inner.negotiate(requested)

        return change

    def for_config(config):
        changes = {"negotiate": negotiate(config.memory_fraction)} | worker()
        return FaultyBackend(worker=lambda: changes, model=model)

    return FaultyBackend(
        methods={"probe": probe_with_memory, "supports": supports}, change_for=for_config
    )


def agrees_beyond_the_fraction(inner, requested):
    return struct(inner.negotiate(requested), memory=(MemoryItem("KV cache", DEVICE_BYTES // 2),))


def agrees_to_any_cache(inner, requested):
    return inner.negotiate(struct(requested, max_batch_total_tokens=None))


def takes_more_than_agreed(inner, deep):
    return struct(inner.health(deep), memory_bytes=DEVICE_BYTES // 8)


def take_host_memory(kept):
    """Allocate 64 MiB that were not negotiated."""

    def change(batch):
        kept.append(np.ones(1 << 23))
        return batch

    return change


def quantized(change_logits=lambda logits, batch: logits, reported_bytes=400):
    """The reference, which claims to be int8."""

    def supports(spec, config):
        known = config.quantize in (None, "int8")
        support = ReferenceBackend().supports(
            spec, struct(config, quantize=None) if known else config
        )
        return struct(
            support, memory=(MemoryItem("weights", reported_bytes if config.quantize else 1000),)
        )

    def for_config(config):
        return (
            FaultyBackend(model=lambda: {"change_logits": change_logits})
            if config.quantize
            else FaultyBackend()
        )

    return FaultyBackend(methods={"supports": supports}, change_for=for_config)


def with_coded_cache(change_logits=lambda logits, batch: logits, reported_bytes=300, worker=dict):
    """The reference, which claims to store its KV cache in int8."""

    def supports(spec, config):
        known = config.kv_cache_dtype in (None, "int8")
        support = ReferenceBackend().supports(
            spec, struct(config, kv_cache_dtype=None) if known else config
        )
        num_bytes = reported_bytes if config.kv_cache_dtype else 1000
        return struct(support, memory=(MemoryItem("KV cache of one token", num_bytes),))

    def for_config(config):
        if config.kv_cache_dtype is None:
            return FaultyBackend()
        return FaultyBackend(model=lambda: {"change_logits": change_logits}, worker=worker)

    return FaultyBackend(methods={"supports": supports}, change_for=for_config)


def other_scores_after_a_preemption():
    """A worker whose scores change when a sequence is recomputed, as if its scales were lost."""
    resumed = []

    def submit(inner, step):
        resumed.extend(new for new in step.added if len(new.tokens) > new.num_prompt_tokens)
        inner.submit(step)

    def collect(inner):
        output = inner.collect()
        return struct(output, logprobs=output.logprobs - np.float32(0.2)) if resumed else output

    return {"submit": submit, "collect": collect}


def halved(logits, batch):
    return logits * np.float32(0.5)


def without_the_last_group(logits, batch):
    """The result of a model whose sizes are not multiples of 64 if its last columns are lost."""
    return logits - 3 * np.sin(np.arange(logits.shape[1], dtype=np.float32))


def quantized_in_whole_groups():
    """As `quantized`, but wrong for models whose sizes are not divisible by groups."""

    def for_config(config):
        is_odd = config.spec.hidden_size % 64 > 0 and config.quantize is not None
        return quantized(without_the_last_group).change_for(config) if is_odd else FaultyBackend()

    return FaultyBackend(methods=quantized().methods, change_for=for_config)


def codes_are_numbers(inner):
    """Integers in the checkpoint are used as weights."""
    path = Path(inner._part._model.inner._path) / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    inner.load()


def sharded(change_logits=lambda logits, batch: logits):
    """The reference, which claims to be sharded over two devices."""

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
    """The second half of the vocabulary, which the other device computes, is lost."""
    logits[:, logits.shape[1] // 2 :] = logits.min()
    return logits


def keeping(name):
    """The reference with a cache folder: it stores a program `name()` and reads it if present."""

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
                raise ValueError("this is not a program")
            path.write_bytes(PROGRAM)
            inner.warmup()

        return FaultyBackend(worker=lambda: {"warmup": warmup})

    return FaultyBackend(change_for=for_config)
