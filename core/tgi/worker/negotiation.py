"""Removes unrequested features from the negotiated limits (`Agreement`)."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.backend.agreement import Agreement, RequestedLimits

__all__ = ["with_requested_features"]


def with_requested_features(agreement: Agreement, requested: RequestedLimits) -> Agreement:
    """Return `agreement` with only the requested features.

    Limits that depend on a removed feature are reduced, and sampling fields that depend on it are
    removed. Without `device_token`, the depth is 1. Without `logprobs`, `top_n_tokens` is removed.
    Without `prefix_cache`, `kv_export` and `state_snapshots` are removed. If the model has
    recurrent layers, `prefix_cache` is removed without `state_snapshots`, because blocks alone do
    not describe a prefix.
    """
    features = [name for name in agreement.features if name in requested.features]
    has_states = any(group.kind == "state" for group in agreement.kv_cache.groups)
    if has_states and "prefix_cache" in features and "state_snapshots" not in features:
        features.remove("prefix_cache")
    if "prefix_cache" not in features:
        features = [name for name in features if name not in ("kv_export", "state_snapshots")]
    reduced: dict[str, Any] = {}
    if not {"multi_token", "drafts"} & set(features):
        reduced["tokens_per_step"] = 1
    if "lora" not in features:
        reduced |= {"max_adapters": 0, "max_adapter_rank": 0}
    if "device_token" not in features:
        reduced["depth"] = 1
    dropped = set() if "logprobs" in features else {"top_n_tokens"}
    caps = agreement.sampling_caps
    return msgspec.structs.replace(
        agreement,
        features=tuple(features),
        limits=msgspec.structs.replace(agreement.limits, **reduced),
        sampling=tuple(name for name in agreement.sampling if name not in dropped),
        sampling_caps={name: cap for name, cap in caps.items() if name not in dropped},
    )
