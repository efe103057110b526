"""The arithmetic that divides a device's memory and settles the limits of serving. Numbers only:
imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

from tgi.architectures import (
    MLP,
    CrossAttention,
    GenericSpec,
    LatentAttention,
    MixtureOfExperts,
    ModelSpec,
    StateSpace,
)
from tgi.architectures.checkpoint import stored_tensors
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import BackendError, CacheGroup, KVCachePlan, Limits, MemoryItem, RequestedLimits
from tgi.worker.cache_layout import (
    ENCODER_QUERY_CHUNK,
    RecurrentMixer,
    group_kinds,
    recurrent_shapes,
    state_values,
    values_per_token,
)
from tgi.worker.memory_limits import check_input, format_bytes, num_cache_blocks, requested_context
from tgi_torch.weights.weight_formats import Quantization, is_quantized

__all__ = [
    "DTYPE_BYTES",
    "MemoryFacts",
    "Plan",
    "checkpoint_bytes",
    "compute_dtype",
    "kv_bytes_per_token",
    "plan_limits",
    "state_bytes",
    "weights_bytes",
    "workspace_bytes",
]

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2})
"""The dtypes `--dtype` may name, and the bytes of one value."""

_FLOAT32_BYTES = 4
_LOGITS_COPIES = (
    5  # logits, processed scores, their sorted values, probabilities and cumulative sum
)
_STATE_COPIES = 4  # states before and after a step, what is kept and what is added
_GENERIC_WIDENING = 4  # intermediate over hidden size, where the family is unknown
_HIDDEN_COPIES = (
    8  # residual, normed, fused query-key-value (up to 3), attention output, projection
)


@final
@dataclass(frozen=True)
class MemoryFacts:
    """What is known once the weights are loaded."""

    free_bytes: int  # that this process may still take
    weights_bytes: int
    dtype: str
    block_size: int
    max_step_tokens: int  # the device's choice where the user names none
    on_demand: bool = False  # memory is taken with its first use
    weights_detail: str = ""  # for the memory arithmetic; the dtype where nothing is said


@final
@dataclass(frozen=True)
class Plan:
    """Limits, cache and the sums behind them."""

    limits: Limits
    kv_cache: KVCachePlan
    memory: tuple[MemoryItem, ...]


def compute_dtype(
    requested: str | None, stored: str, quantization: Quantization | None = None
) -> str:
    """The dtype to compute in: as wished, else bfloat16 for checkpoints of 16 bits and quantized
    ones, float32 for others.
    """
    if requested is None:
        return (
            "bfloat16"
            if quantization is not None or stored in ("float16", "bfloat16")
            else "float32"
        )
    if requested not in DTYPE_BYTES:
        raise BackendError(f"`--dtype {requested}` is not one of {', '.join(sorted(DTYPE_BYTES))}.")
    return requested


def weights_bytes(spec: ModelSpec, dtype: str, quantization: Quantization | None = None) -> int:
    """Bytes of all parameters in `dtype`, but those that are quantized."""
    return sum(
        _tensor_bytes(parameter, shape, dtype, quantization)
        for parameter, shape in tensor_shapes(spec).items()
    )


def _tensor_bytes(
    parameter: str, shape: tuple[int, ...], dtype: str, quantization: Quantization | None
) -> int:
    if quantization is not None and is_quantized(parameter, shape):
        return quantization.format_of(parameter).num_bytes(*shape)
    return math.prod(shape) * DTYPE_BYTES[dtype]


def checkpoint_bytes(model_path: Path, dtype: str) -> int:
    """The same from the headers of the weight files, for a model without a `ModelSpec`. Raises
    `ModelError`.
    """
    return (
        sum(math.prod(stored.shape) for stored in stored_tensors(model_path).values())
        * DTYPE_BYTES[dtype]
    )


def kv_bytes_per_token(spec: ModelSpec | GenericSpec, dtype: str) -> int:
    """Bytes that one token keeps over all layers, and, with an encoder, one encoder token beside
    it.
    """
    return values_per_token(spec) * DTYPE_BYTES[dtype]


def state_bytes(spec: ModelSpec | GenericSpec, dtype: str) -> int:
    """Bytes that one sequence keeps in recurrent layers, whatever its length."""
    windows, states = state_values(spec)
    return windows * DTYPE_BYTES[dtype] + states * _FLOAT32_BYTES


def workspace_bytes(
    spec: ModelSpec | GenericSpec, dtype: str, max_step_tokens: int, max_sequences: int
) -> int:
    """Bytes that the largest step takes for a moment: the activations of one layer, and the logits
    with the sampler's copies.
    """
    stack = () if isinstance(spec, GenericSpec) else spec.decoder.layers
    mixers = [
        branch.mixer for layer in stack for block in layer.blocks for branch in block.branches
    ]
    widths = [_GENERIC_WIDENING * spec.hidden_size] if isinstance(spec, GenericSpec) else []
    widths += [m.intermediate_size for m in mixers if isinstance(m, MLP)]
    widths += [
        m.expert.intermediate_size * m.experts_per_token
        for m in mixers
        if isinstance(m, MixtureOfExperts)
    ]
    widths += [
        m.num_heads * (m.kv_lora_rank + m.qk_rope_head_dim)
        for m in mixers
        if isinstance(m, LatentAttention)
    ]
    widths += [2 * m.inner_size for m in mixers if isinstance(m, StateSpace)]
    per_token = (_HIDDEN_COPIES * spec.hidden_size + 3 * max(widths, default=0)) * DTYPE_BYTES[
        dtype
    ]
    logits = min(max_sequences, max_step_tokens) * spec.vocab_size * _FLOAT32_BYTES * _LOGITS_COPIES
    states = max(
        (math.prod(recurrent_shapes(m)[1]) for m in mixers if isinstance(m, RecurrentMixer)),
        default=0,
    )
    state_copies = _STATE_COPIES * max_sequences * states * _FLOAT32_BYTES
    # Scores and position biases of one chunk of queries over a whole text.
    heads = max((m.num_heads for m in mixers if isinstance(m, CrossAttention)), default=0)
    encoder = (
        2 * heads * min(ENCODER_QUERY_CHUNK, max_step_tokens) * max_step_tokens * _FLOAT32_BYTES
    )
    return max_step_tokens * per_token + logits + state_copies + encoder


def plan_limits(
    spec: ModelSpec | GenericSpec, requested: RequestedLimits, facts: MemoryFacts
) -> Plan:
    """Keep what the user gave and derive the rest. Raises `BackendError` naming option, need and
    limit.
    """
    context = requested_context(spec, requested)
    max_sequences = requested.max_batch_size or requested.max_concurrent_requests
    max_step_tokens = requested.max_batch_prefill_tokens or max(
        facts.max_step_tokens, max_sequences
    )
    # An encoder runs whole, so alone in a step it may be as long as the context.
    longest = max(max_step_tokens, context) if "cross" in group_kinds(spec) else max_step_tokens
    workspace = workspace_bytes(spec, facts.dtype, longest, max_sequences)
    left = max(0, facts.free_bytes - workspace)
    max_sequences = _num_sequences(spec, requested, facts, max_sequences, left)
    states = state_bytes(spec, facts.dtype) * (max_sequences + 1)  # one more, for the health check
    items = [
        MemoryItem("weights", facts.weights_bytes, facts.weights_detail or facts.dtype),
        MemoryItem(
            "workspace",
            workspace,
            f"largest step of {max_step_tokens} tokens and {max_sequences} sequences",
        ),
    ]
    if states:
        left -= states
        items.append(MemoryItem("states", states, f"{max_sequences} sequences of any length"))
    num_blocks = 0
    block_bytes = kv_bytes_per_token(spec, facts.dtype) * facts.block_size
    if block_bytes:
        affordable = left // block_bytes
        num_blocks = num_cache_blocks(
            requested,
            context,
            max_sequences,
            affordable=affordable,
            default=affordable // 2,
            block_size=facts.block_size,
        )
        capacity = num_blocks * facts.block_size
        if not num_blocks:
            raise BackendError(
                f"{format_bytes(left)} of memory are left beside weights"
                f" ({format_bytes(facts.weights_bytes)}) and workspace ({format_bytes(workspace)}),"
                f" too little for one cache block of {format_bytes(block_bytes)}.",
                "Free memory, choose a smaller model, or lower `--max-batch-prefill-tokens`.",
            )
        _check_capacity(requested, left, capacity)
        left -= num_blocks * block_bytes
        detail = f"{num_blocks} blocks of {facts.block_size} tokens, {capacity} tokens in all"
        items.append(MemoryItem("KV cache", num_blocks * block_bytes, detail))
        context = min(context, capacity)
    max_total_tokens = requested.max_total_tokens or context
    check_input(requested, max_total_tokens)
    groups = (
        CacheGroup(kind, max_sequences if kind == "state" else num_blocks)
        for kind in group_kinds(spec)
    )
    return Plan(
        limits=Limits(
            max_total_tokens=max_total_tokens,
            max_sequences=max_sequences,
            max_step_tokens=max_step_tokens,
        ),
        kv_cache=KVCachePlan("paged", facts.block_size, tuple(groups), on_demand=facts.on_demand),
        memory=(*items, MemoryItem("left free", left)),
    )


def _num_sequences(
    spec: ModelSpec | GenericSpec,
    requested: RequestedLimits,
    facts: MemoryFacts,
    num_wanted: int,
    left: int,
) -> int:
    """As many as have a place for their states; fewer than `num_wanted` only where the user named
    no batch size.
    """
    each = state_bytes(spec, facts.dtype)
    if not each:
        return num_wanted
    affordable = left // each - 1
    if affordable < 1 or (requested.max_batch_size is not None and affordable < num_wanted):
        raise BackendError(
            f"{format_bytes(left)} of memory are left beside weights"
            f" ({format_bytes(facts.weights_bytes)}) and workspace, too little for the states of"
            f" {requested.max_batch_size or 1} sequences, {format_bytes(each)} each.",
            "Free memory, choose a smaller model, or lower `--max-batch-size` or"
            " `--max-batch-prefill-tokens`.",
        )
    return min(num_wanted, affordable)


def _check_capacity(requested: RequestedLimits, left: int, capacity: int) -> None:
    if requested.max_total_tokens is not None and requested.max_total_tokens > capacity:
        raise BackendError(
            f"`--max-total-tokens {requested.max_total_tokens}` does not fit the cache of"
            f" {capacity} tokens ({_cache_limit(requested, left)}).",
            "Lower `--max-total-tokens`, or give the cache more with `--max-batch-total-tokens` or"
            " more memory.",
        )


def _cache_limit(requested: RequestedLimits, left: int) -> str:
    if requested.max_batch_total_tokens is not None:
        return f"`--max-batch-total-tokens {requested.max_batch_total_tokens}`"
    return f"{format_bytes(left)} of memory are left for it"
