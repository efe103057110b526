"""Estimates the memory of the weights and of the KV cache before the model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tgi.backend import DeviceInfo, MemoryItem

__all__ = ["MemoryEstimate", "estimate_memory"]

_WEIGHTS = "weights"
_TOKEN = "KV cache of one token"  # noqa: S105 - a label of `Support.memory`
_SEQUENCE = "state of one sequence"
_UNKNOWN_CONTEXT = 4096  # context length in tokens if neither the user nor the model defines it


class MemoryEstimate(msgspec.Struct, frozen=True):
    """An estimate in bytes and tokens. Unknown values are None.

    The estimate does not include the temporary memory of a step. The server subtracts it from
    `left_bytes` at startup.
    """

    device_bytes: int | None  # total memory of the devices that run the model
    usable_bytes: int | None  # the fraction of `device_bytes` that the user allows
    weights_bytes: int | None
    token_bytes: int | None  # size of one token in the KV cache
    sequence_bytes: int | None  # size of the state of a sequence that is independent of its length
    left_bytes: int | None  # `usable_bytes` minus `weights_bytes`
    cache_tokens: int | None  # maximum number of tokens in the KV cache, over all sequences
    # Maximum length of a sequence. If no length was requested, it is the minimum of the model's
    # context length and `cache_tokens`.
    max_total_tokens: int
    # Number of sequences with `max_total_tokens` tokens that fit into the cache.
    num_full_sequences: int | None
    requested_cache_tokens: int | None = None  # `--max-batch-total-tokens`

    @property
    def problem(self) -> str:
        """The reason for which the model cannot run with these limits, or an empty string."""
        if self.left_bytes is not None and self.left_bytes <= 0:
            return (
                f"the weights need {self.weights_bytes} bytes, but only {self.usable_bytes} bytes"
                " of memory may be used"
            )
        if (
            self.requested_cache_tokens is not None
            and self.cache_tokens is not None
            and self.requested_cache_tokens > self.cache_tokens
        ):
            return (
                f"`--max-batch-total-tokens {self.requested_cache_tokens}` exceeds the"
                f" {self.cache_tokens} tokens for which there is memory"
            )
        if self.num_full_sequences == 0:
            return (
                f"a sequence of {self.max_total_tokens} tokens does not fit into the cache, which"
                f" has space for at most {self.cache_tokens} tokens"
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
    """Estimate the memory of a model on the first `num_shard` devices. `items` is the memory that
    the backend reports in `Support.memory`.
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
