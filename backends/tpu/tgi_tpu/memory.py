"""The arithmetic that divides a chip's memory and settles the limits of serving. Numbers only:
imports no framework.

All sums are per chip: with `num_shard` chips each holds its share of weights and cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from tgi.architectures import MLP, Attention, Mixer, MixtureOfExperts, ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import BackendError, CacheGroup, KVCachePlan, Limits, MemoryItem, RequestedLimits
from tgi.worker.memory_limits import check_input, format_bytes, num_cache_blocks, requested_context

__all__ = [
    "BLOCK_SIZE",
    "BUCKETS_OPTION",
    "DTYPE_BYTES",
    "INT8_NAMES",
    "MemoryFacts",
    "Plan",
    "compute_dtype",
    "kv_bytes_per_token",
    "plan_limits",
    "weights_bytes",
    "workspace_bytes",
]

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float32": 4})
"""The dtypes `--dtype` may name here, and the bytes of one value. The chips have no float16."""

INT8_NAMES = ("bitsandbytes", "eetq", "int8")
"""What `--quantize` may name: weights of 8 bits with a scale per output, quantized while they are
loaded.
"""

BLOCK_SIZE = 32
"""Tokens of a cache block: large enough for one fetch by the kernels, small enough to share most of
a common prompt.
"""

BUCKETS_OPTION = "--tpu-token-buckets"
"""The option that names the numbers of tokens that steps are padded to."""

_FLOAT32_BYTES = 4
# logits, scores before and after the warpers, keys, probabilities, two counts, the reported
# distribution
_LOGITS_COPIES = 8
_HIDDEN_COPIES = (
    8  # residual, normed, fused query-key-value (up to 3), attention output, projection
)
_CACHE_SHARE = 0.9  # of what is left, where the user names no size


@final
@dataclass(frozen=True)
class MemoryFacts:
    """What is known once the weights are loaded."""

    free_bytes: int  # that one chip may still take
    weights_bytes: int
    block_bytes: int  # of one cache block over all layers
    block_size: int  # tokens
    dtype: str
    default_step_tokens: int  # where the user names no `--max-batch-prefill-tokens`


@final
@dataclass(frozen=True)
class Plan:
    """Limits, cache and the sums behind them."""

    limits: Limits
    kv_cache: KVCachePlan
    memory: tuple[MemoryItem, ...]


def compute_dtype(requested: str | None, stored: str | None) -> str:
    """The dtype to compute in: as wished, else bfloat16 for checkpoints of 16 bits (`F16`, `BF16`)
    and float32 for others.
    """
    if requested is None:
        return "bfloat16" if stored in ("F16", "BF16") else "float32"
    if requested not in DTYPE_BYTES:
        raise BackendError(f"`--dtype {requested}` is not one of {', '.join(sorted(DTYPE_BYTES))}.")
    return requested


def weights_bytes(spec: ModelSpec, dtype: str, quantize: str | None = None) -> int:
    """Bytes of all parameters in `dtype`; with `quantize`, matrices in 8 bits."""
    each = {True: 1 if quantize else DTYPE_BYTES[dtype], False: DTYPE_BYTES[dtype]}
    return sum(math.prod(shape) * each[len(shape) > 1] for shape in tensor_shapes(spec).values())


def kv_bytes_per_token(spec: ModelSpec, dtype: str) -> int:
    """Bytes that one token keeps over all layers."""
    layers = [mixer for mixer in _mixers(spec) if isinstance(mixer, Attention)]
    return sum(2 * layer.num_kv_heads * layer.head_dim for layer in layers) * DTYPE_BYTES[dtype]


def workspace_bytes(spec: ModelSpec, dtype: str, max_step_tokens: int, max_sequences: int) -> int:
    """Bytes that the largest step takes for a moment: the activations of one layer, and the logits
    with the sampler's copies.
    """
    mixers = list(_mixers(spec))
    widths = [mixer.intermediate_size for mixer in mixers if isinstance(mixer, MLP)]
    widths += [
        m.expert.intermediate_size * m.experts_per_token
        for m in mixers
        if isinstance(m, MixtureOfExperts)
    ]
    per_token = (_HIDDEN_COPIES * spec.hidden_size + 3 * max(widths, default=0)) * DTYPE_BYTES[
        dtype
    ]
    logits = min(max_sequences, max_step_tokens) * spec.vocab_size * _FLOAT32_BYTES * _LOGITS_COPIES
    return max_step_tokens * per_token + logits


def plan_limits(spec: ModelSpec, requested: RequestedLimits, facts: MemoryFacts) -> Plan:
    """Keep what the user gave and derive the rest. Raises `BackendError` naming option, need and
    limit.
    """
    context = requested_context(spec, requested)
    max_sequences = requested.max_batch_size or requested.max_concurrent_requests
    max_step_tokens = requested.max_batch_prefill_tokens or max(
        max_sequences, min(facts.default_step_tokens, max_sequences * context)
    )
    workspace = workspace_bytes(spec, facts.dtype, max_step_tokens, max_sequences)
    left = max(0, facts.free_bytes - workspace)
    affordable = left // facts.block_bytes
    default = int(affordable * _CACHE_SHARE)
    num_blocks = num_cache_blocks(
        requested,
        context,
        max_sequences,
        affordable=affordable,
        default=default,
        block_size=facts.block_size,
    )
    capacity = num_blocks * facts.block_size
    if not num_blocks:
        raise BackendError(
            f"{format_bytes(left)} of memory are left beside weights"
            f" ({format_bytes(facts.weights_bytes)}) and workspace ({format_bytes(workspace)}), too"
            f" little for one cache block of {format_bytes(facts.block_bytes)}.",
            "Use more chips (`--num-shard`), choose a smaller model, or lower"
            " `--max-batch-prefill-tokens`.",
        )
    _check_capacity(requested, capacity)
    context = requested.max_total_tokens or min(context, capacity)
    check_input(requested, context)
    used = num_blocks * facts.block_bytes
    memory = (
        MemoryItem("weights", facts.weights_bytes, facts.dtype),
        MemoryItem(
            "workspace",
            workspace,
            f"largest step of {max_step_tokens} tokens and {max_sequences} sequences",
        ),
        MemoryItem(
            "KV cache",
            used,
            f"{num_blocks} blocks of {facts.block_size} tokens, {capacity} tokens in all",
        ),
        MemoryItem("left free", left - used),
    )
    limits = Limits(
        max_total_tokens=context,
        max_sequences=max_sequences,
        max_step_tokens=max_step_tokens,
        depth=2,
    )
    return Plan(
        limits, KVCachePlan("paged", facts.block_size, (CacheGroup("full", num_blocks),)), memory
    )


def _mixers(spec: ModelSpec) -> tuple[Mixer, ...]:
    return tuple(
        branch.mixer
        for layer in spec.decoder.layers
        for block in layer.blocks
        for branch in block.branches
    )


def _check_capacity(requested: RequestedLimits, capacity: int) -> None:
    if requested.max_total_tokens is not None and requested.max_total_tokens > capacity:
        raise BackendError(
            f"`--max-total-tokens {requested.max_total_tokens}` does not fit the cache of"
            f" {capacity} tokens.",
            "Lower `--max-total-tokens`, or give the cache more with `--max-batch-total-tokens` or"
            " more chips.",
        )
