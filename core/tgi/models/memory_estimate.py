"""What will fit: the arithmetic of weights and cache before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi.backend import DeviceInfo, MemoryItem

__all__ = ["MemoryEstimate", "estimate_memory"]

_WEIGHTS = "weights"
_TOKEN = "KV cache of one token"  # noqa: S105 - labels of `Support.memory`
_SEQUENCE = "state of one sequence"
_UNKNOWN_CONTEXT = 4096  # tokens, where neither the user nor the model names a limit


class MemoryEstimate(msgspec.Struct, frozen=True):
    """Bytes and tokens; None = not known. What a step takes for a moment comes off `left_bytes`
    when the server starts.
    """

    device_bytes: int | None  # of the devices that hold the model, together
    usable_bytes: int | None  # the fraction of it that the user allows
    weights_bytes: int | None
    token_bytes: int | None  # one token in the cache
    sequence_bytes: int | None  # what a sequence of any length keeps beside its tokens
    left_bytes: int | None  # usable beside the weights
    cache_tokens: int | None  # at most, over all sequences
    max_total_tokens: (
        int  # of one sequence: as given, else the model's context, as far as the cache holds it
    )
    num_full_sequences: int | None  # sequences of that length that fit at a time
    requested_cache_tokens: int | None = None

    @property
    def problem(self) -> str:
        """Why this cannot work; empty if it can."""
        if self.left_bytes is not None and self.left_bytes <= 0:
            return (
                f"the weights take {self.weights_bytes} bytes and {self.usable_bytes} bytes of"
                " memory may be used"
            )
        if (
            self.requested_cache_tokens is not None
            and self.cache_tokens is not None
            and self.requested_cache_tokens > self.cache_tokens
        ):
            return (
                f"`--max-batch-total-tokens {self.requested_cache_tokens}` is beyond the"
                f" {self.cache_tokens} tokens that may fit"
            )
        if self.num_full_sequences == 0:
            return (
                f"a sequence of {self.max_total_tokens} tokens does not fit the cache of at most"
                f" {self.cache_tokens}"
            )
        return ""


def estimate_memory(
    devices: Sequence[DeviceInfo],
    items: Sequence[MemoryItem],
    *,
    num_shard: int,
    memory_fraction: float,
    model_max_tokens: int,
    max_total_tokens: int | None = None,
    max_batch_total_tokens: int | None = None,
) -> MemoryEstimate:
    """The estimate for a model on the first `num_shard` devices. `items` are those of
    `Support.memory`.
    """
    each = {item.label: item.num_bytes for item in items}
    weights, token, sequence = each.get(_WEIGHTS), each.get(_TOKEN), each.get(_SEQUENCE)
    total = sum(device.memory_bytes for device in devices[:num_shard]) or None
    usable = None if total is None else int(total * memory_fraction)
    left = None if usable is None or weights is None else usable - weights
    affordable = None if left is None or not token else max(left, 0) // token
    tokens = affordable if max_batch_total_tokens is None else max_batch_total_tokens
    if affordable is not None and tokens is not None:
        tokens = min(tokens, affordable)
    context = max_total_tokens or model_max_tokens or _UNKNOWN_CONTEXT
    if max_total_tokens is None and tokens:
        context = min(context, tokens)
    return MemoryEstimate(
        device_bytes=total,
        usable_bytes=usable,
        weights_bytes=weights,
        token_bytes=token,
        sequence_bytes=sequence,
        left_bytes=left,
        cache_tokens=tokens,
        max_total_tokens=context,
        num_full_sequences=None if tokens is None else tokens // context,
        requested_cache_tokens=max_batch_total_tokens,
    )
