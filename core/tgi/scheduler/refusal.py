"""Why a sequence can never run under the negotiated limits.

The front end checks requests first. These checks protect the worker from a request that the front
end did not check.
"""

from __future__ import annotations

from tgi.backend import Agreement, Limits
from tgi.scheduler.kv_cache_manager import KVCacheManager
from tgi.scheduler.sequence import Sequence

__all__ = ["find_refusal"]


def find_refusal(sequence: Sequence, agreement: Agreement, cache: KVCacheManager) -> str | None:
    """Why a sequence can never run, as a message for the client. None if it can run."""
    limits, num_prompt = agreement.limits, sequence.num_prompt_tokens
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
    other = _find_unknown_id(sequence, agreement.vocab_size) or _find_encoder_refusal(
        sequence, limits, cache
    )
    if other is not None:
        return other
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


def _find_unknown_id(sequence: Sequence, vocab_size: int) -> str | None:
    """Why the worker cannot look up the ids of a sequence: an id without a row in the embedding."""
    for token_ids in (sequence.token_ids, sequence.request.encoder_token_ids):
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            outside = next(token for token in token_ids if not 0 <= token < vocab_size)
            return f"The sequence contains token id {outside}, the model has {vocab_size} token ids"
    return None
