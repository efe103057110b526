"""Layers that many families have in common, and the choice of the layers with a sliding window."""

from __future__ import annotations

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.spec import (
    MLP,
    Attention,
    Block,
    Branch,
    Layer,
    Mixer,
    MixtureOfExperts,
    Norm,
)

__all__ = [
    "FeedForward",
    "dense_layers",
    "parallel",
    "rotary_layers",
    "sequential",
    "sliding_layers",
]

FeedForward = MLP | MixtureOfExperts


def sequential(
    first: Mixer,
    feed_forward: FeedForward,
    *,
    norm: Norm | None = None,
    post_norm: Norm | None = None,
    residual_scale: float = 1.0,
) -> Layer:
    """Build a layer with two residual blocks: `first`, for example attention, then the feed-forward
    mixer.

    The given norms are applied before and after each mixer.
    """

    def block(mixer: Mixer) -> Block:
        return Block(
            branches=(Branch(mixer=mixer, norm=norm, post_norm=post_norm),),
            residual_scale=residual_scale,
        )

    return Layer(blocks=(block(first), block(feed_forward)))


def parallel(attention: Attention, feed_forward: FeedForward, norm: Norm) -> Layer:
    """Build a layer with one residual block, in which both mixers read the same normalised
    vector.
    """
    return Layer(
        blocks=(Block(branches=(Branch(mixer=attention), Branch(mixer=feed_forward)), norm=norm),)
    )


def dense_layers(reader: ConfigReader, num_layers: int, *, default: int) -> tuple[bool, ...]:
    """Return for each layer whether it has an MLP in place of a mixture of experts.

    The config's `mlp_layer_types` is used if it is present. Otherwise the first
    `first_k_dense_replace` layers have an MLP. `default` is the default of this number.
    """
    kinds = reader.strings("mlp_layer_types", ("dense", "sparse"), num_layers)
    if kinds is not None:
        return tuple(kind == "dense" for kind in kinds)
    count = reader.integer("first_k_dense_replace", default=default, minimum=0)
    return tuple(layer < count for layer in range(num_layers))


def rotary_layers(reader: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    """Return for each layer whether it has a rotary embedding.

    In spite of its name, the config's `no_rope_layers` contains 1 for a layer with rotary embedding
    and 0 for a layer without. If the list is absent or empty, every `no_rope_layer_interval`-th
    layer has no rotary embedding.
    """
    interval = reader.integer("no_rope_layer_interval", default=4)
    rotates = reader.integers("no_rope_layers") or tuple(
        int((layer + 1) % interval != 0) for layer in range(num_layers)
    )
    if len(rotates) != num_layers:
        raise reader.error("no_rope_layers", f"must have {num_layers} entries")
    return tuple(map(bool, rotates))


def sliding_layers(reader: ConfigReader, num_layers: int, *, pattern: int) -> tuple[bool, ...]:
    """Return for each layer whether it has a window.

    The config's `layer_types` is used if it is present. Otherwise every `pattern`-th layer has no
    window. The config's `sliding_window_pattern` replaces `pattern`.
    """
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), num_layers)
    if kinds is not None:
        return tuple(kind == "sliding_attention" for kind in kinds)
    every = reader.integer("sliding_window_pattern", "_sliding_window_pattern", default=pattern)
    return tuple((layer + 1) % every != 0 for layer in range(num_layers))
