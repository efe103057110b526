"""What the limits of an agreement rule out from the start."""

from __future__ import annotations

from tgi.backend import BackendError, Limits
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.sequence import Sequence

__all__ = ["check_limits", "find_refusal"]


def check_limits(limits: Limits) -> None:
    """Raise `BackendError` if under these limits nothing could ever run."""
    if (
        min(limits.max_sequences, limits.max_step_tokens, limits.depth, limits.chunk_multiple) < 1
        or limits.max_total_tokens < 2
    ):
        raise BackendError(f"The backend agreed on limits that let nothing run: {limits}.")
    if limits.chunked and limits.max_step_tokens < limits.chunk_multiple:
        raise BackendError(
            f"The backend agreed on steps of {limits.max_step_tokens} tokens, but on prefill chunks"
            f" of {limits.chunk_multiple}."
        )


def find_refusal(sequence: Sequence, limits: Limits, cache: KVCacheManager) -> str | None:
    """Why a sequence can never run, or None."""
    num_prompt = sequence.num_prompt_tokens
    if num_prompt == 0:
        return "The prompt has no tokens; it needs at least 1"
    if num_prompt >= sequence.max_tokens:
        limit = f"at most {limits.max_total_tokens} tokens in all (`max_total_tokens`)"
        return (
            f"The prompt has {num_prompt} tokens and leaves no room for a new one: {limit}, at"
            " least 1 of them new"
        )
    if not limits.chunked and num_prompt > limits.max_step_tokens:
        return (
            f"The prompt has {num_prompt} tokens; this backend runs a prompt in one step of at most"
            f" {limits.max_step_tokens}"
        )
    encoder_refusal = _find_encoder_refusal(sequence, limits, cache)
    if encoder_refusal is not None:
        return encoder_refusal
    capacity = cache.max_sequence_tokens
    held = sequence.max_tokens - 1  # the last token is chosen, but never run
    if capacity is not None and held > capacity:
        return (
            f"The sequence may need a cache of {held} tokens; there is room for {capacity}: ask for"
            " fewer new tokens"
        )
    return None


def _find_encoder_refusal(sequence: Sequence, limits: Limits, cache: KVCacheManager) -> str | None:
    count, capacity = sequence.num_encoder_tokens, cache.max_encoder_tokens
    if count == 0:
        return (
            "The sequence has no encoder tokens; this model needs at least 1"
            if cache.has_cross_blocks
            else None
        )
    if capacity == 0:
        return (
            f"The sequence has {count} encoder tokens, but this model has no encoder: send a prompt"
            " alone"
        )
    limit = limits.max_total_tokens if capacity is None else min(capacity, limits.max_total_tokens)
    return (
        f"The sequence has {count} encoder tokens; there is room for {limit}"
        if count > limit
        else None
    )
