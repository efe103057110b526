"""Divides the memory of a device among workspace, states and cache, and derives the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from tgi.architectures.spec import GenericSpec, ModelSpec
from tgi.backend.agreement import CacheGroup, KVCachePlan, Limits, MemoryItem, RequestedLimits
from tgi.backend.errors import BackendError
from tgi.worker.cache_layout import group_kinds
from tgi.worker.memory.limits import check_input, format_bytes, num_cache_blocks, requested_context

__all__ = ["BytesOf", "DeviceMemory", "MemoryPlan", "plan_memory"]

# Snapshots use at most this share of the memory that is left after states and cache.
_SNAPSHOT_SHARE = 0.5
# Number of snapshots that are planned if this number exceeds the number of sequences.
_MIN_SNAPSHOTS = 16


@final
@dataclass(frozen=True)
class BytesOf:
    """The sizes of one model on one device, in bytes."""

    weights: int
    block: int  # size of one cache block in all layers; 0 if nothing is stored per token
    state: int  # size of one sequence in all recurrent layers; 0 if there is no recurrent layer
    workspace: Callable[[int, int], int]  # maps (tokens, sequences) of a step to its workspace


@final
@dataclass(frozen=True)
class DeviceMemory:
    """The memory of one device, and the rules for its use."""

    free_bytes: int  # memory that this process may use in addition to the loaded weights
    block_size: int  # tokens per block
    default_step_tokens: int  # used if `--max-batch-prefill-tokens` is not set
    # Fraction of the remaining memory that the cache uses if no cache size is set.
    cache_share: float
    weights_detail: str  # for the memory report, such as the dtype
    remedy: str  # advice on getting more memory, as the beginning of a sentence
    more: str  # the same advice as a noun
    on_demand: bool = False  # whether the memory of a block is allocated at its first use


@final
@dataclass(frozen=True)
class MemoryPlan:
    """The limits, the cache plan, and the memory use of each part."""

    limits: Limits
    kv_cache: KVCachePlan
    memory: tuple[MemoryItem, ...]


def plan_memory(
    spec: ModelSpec | GenericSpec,
    requested: RequestedLimits,
    bytes_of: BytesOf,
    device: DeviceMemory,
) -> MemoryPlan:
    """Return the requested limits, and derive the limits that were not requested. Raises a
    `BackendError` with the option and the available memory if a requested limit does not fit.
    """
    kinds = group_kinds(spec)
    context = requested_context(spec, requested)
    max_sequences = requested.max_batch_size or requested.max_concurrent_requests
    max_step_tokens = requested.max_batch_prefill_tokens or max(
        device.default_step_tokens, max_sequences
    )
    # All encoder tokens run in one step, so a step may have as many tokens as the context.
    longest = max(max_step_tokens, context) if "cross" in kinds else max_step_tokens
    workspace = bytes_of.workspace(longest, max_sequences)
    left = max(0, device.free_bytes - workspace)
    max_sequences = _num_sequences(requested, bytes_of, device, max_sequences, left)
    detail = f"largest step of {max_step_tokens} tokens and {max_sequences} sequences"
    items = [
        MemoryItem("weights", bytes_of.weights, device.weights_detail),
        MemoryItem("workspace", workspace, detail),
    ]
    states = bytes_of.state * (max_sequences + 1)  # the additional state is for the health check
    if states:
        left -= states
        items.append(MemoryItem("states", states, f"{max_sequences} sequences of any length"))
    num_blocks = 0
    if bytes_of.block:
        num_blocks = _num_blocks(
            requested, bytes_of, device, (left, workspace), (context, max_sequences)
        )
        capacity = num_blocks * device.block_size
        left -= num_blocks * bytes_of.block
        detail = f"{num_blocks} blocks of {device.block_size} tokens, {capacity} tokens in all"
        items.append(MemoryItem("KV cache", num_blocks * bytes_of.block, detail))
        context = min(context, capacity)
    max_total_tokens = requested.max_total_tokens or context
    check_input(requested, max_total_tokens)
    num_snapshots = _num_snapshots(requested, bytes_of, max_sequences, left)
    if num_snapshots:
        left -= num_snapshots * bytes_of.state
        detail = f"{num_snapshots} snapshots, in addition to those in unused states"
        items.append(MemoryItem("snapshots", num_snapshots * bytes_of.state, detail))
    groups = tuple(
        CacheGroup(kind, max_sequences + num_snapshots if kind == "state" else num_blocks)
        for kind in kinds
    )
    return MemoryPlan(
        Limits(max_total_tokens, max_sequences, max_step_tokens),
        KVCachePlan("paged", device.block_size, groups, on_demand=device.on_demand),
        (*items, MemoryItem("left free", left)),
    )


def _num_sequences(
    requested: RequestedLimits, bytes_of: BytesOf, device: DeviceMemory, num_wanted: int, left: int
) -> int:
    """Return the number of sequences whose states fit, at most `num_wanted`. Raises `BackendError`
    if the states of a requested batch size, or of one sequence, do not fit.
    """
    if not bytes_of.state:
        return num_wanted
    affordable = left // bytes_of.state - 1
    if affordable < 1 or (requested.max_batch_size is not None and affordable < num_wanted):
        raise BackendError(
            f"{format_bytes(left)} of memory are left beside weights"
            f" ({format_bytes(bytes_of.weights)}) and workspace. This is too little for the states"
            f" of {requested.max_batch_size or 1} sequences, {format_bytes(bytes_of.state)} each.",
            f"{device.remedy}, choose a smaller model, or lower `--max-batch-size` or"
            " `--max-batch-prefill-tokens`.",
        )
    return min(num_wanted, affordable)


def _num_snapshots(
    requested: RequestedLimits, bytes_of: BytesOf, max_sequences: int, left: int
) -> int:
    """Return the number of snapshots for which memory is planned. `left` is the memory that is left
    after all other items. The number may be 0, because unused states contain snapshots too.
    """
    if not bytes_of.state or "state_snapshots" not in requested.features:
        return 0
    affordable = int(max(left, 0) * _SNAPSHOT_SHARE) // bytes_of.state
    return min(max(max_sequences, _MIN_SNAPSHOTS), affordable)


def _num_blocks(
    requested: RequestedLimits,
    bytes_of: BytesOf,
    device: DeviceMemory,
    sizes: tuple[int, int],
    wanted: tuple[int, int],
) -> int:
    """Return the number of cache blocks, at least 1. `sizes` are the bytes (left, workspace), and
    `wanted` is (context, sequences).
    """
    left, workspace = sizes
    affordable = left // bytes_of.block
    num_blocks = num_cache_blocks(
        requested,
        *wanted,
        affordable=affordable,
        default=int(affordable * device.cache_share),
        block_size=device.block_size,
    )
    if not num_blocks:
        raise BackendError(
            f"{format_bytes(left)} of memory are left beside weights"
            f" ({format_bytes(bytes_of.weights)}) and workspace ({format_bytes(workspace)})."
            f" This is too little for one cache block of {format_bytes(bytes_of.block)}.",
            f"{device.remedy}, choose a smaller model, or lower `--max-batch-prefill-tokens`.",
        )
    capacity = num_blocks * device.block_size
    if requested.max_total_tokens is not None and requested.max_total_tokens > capacity:
        raise BackendError(
            f"`--max-total-tokens {requested.max_total_tokens}` does not fit the cache of"
            f" {capacity} tokens ({_cache_limit(requested, left)}).",
            "Lower `--max-total-tokens`, or provide more cache with `--max-batch-total-tokens` or"
            f" {device.more}.",
        )
    return num_blocks


def _cache_limit(requested: RequestedLimits, left: int) -> str:
    if requested.max_batch_total_tokens is not None:
        return f"`--max-batch-total-tokens {requested.max_batch_total_tokens}`"
    return f"{format_bytes(left)} of memory are left for the cache"
