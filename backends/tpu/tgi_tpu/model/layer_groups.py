"""Divides a decoder's layers into groups of a repeated pattern. A pattern is compiled once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

from tgi.architectures import Attention, Layer, ModelSpec

__all__ = [
    "CacheShape",
    "LayerGroup",
    "LayerPlace",
    "array_of",
    "attention_of",
    "cache_shapes",
    "layer_groups",
    "place_of",
]

_LAYERS = "decoder.layers."
_MAX_PERIOD = 12
"""Maximum length of a pattern. gemma3 repeats every 6 layers."""


@final
@dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers that begin with layer `first`: the layers of `pattern`, repeated `repeats`
    times.
    """

    first: int
    pattern: tuple[Layer, ...]
    repeats: int

    @property
    def stop(self) -> int:
        """The index after the last layer."""
        return self.first + len(self.pattern) * self.repeats


@final
@dataclass(frozen=True)
class LayerPlace:
    """The place of a layer's parameters: row `repeat` of member `member` of group `group`."""

    group: int
    member: int
    repeat: int


@final
@dataclass(frozen=True)
class CacheShape:
    """Attention layers whose keys and values have the same shape. These layers share one cache
    array.
    """

    num_kv_heads: int
    head_dim: int
    layers: tuple[int, ...]  # in order


@lru_cache(maxsize=16)
def layer_groups(spec: ModelSpec) -> tuple[LayerGroup, ...]:
    """Divide the decoder's layers into groups. Each group is as long as possible."""
    layers = spec.decoder.layers
    groups: list[LayerGroup] = []
    while (first := groups[-1].stop if groups else 0) < len(layers):
        period, repeats = _longest_repetition(layers[first:])
        groups.append(LayerGroup(first, layers[first : first + period], repeats))
    return tuple(groups)


def _longest_repetition(layers: tuple[Layer, ...]) -> tuple[int, int]:
    """Return (period, repeats) of the pattern that covers the most layers from the beginning.

    If several patterns cover the same number of layers, the shortest pattern is used.
    """
    best = (1, 1)
    for period in range(1, min(_MAX_PERIOD, len(layers)) + 1):
        pattern, repeats = layers[:period], 1
        while layers[repeats * period : (repeats + 1) * period] == pattern:
            repeats += 1
        if period == 1 or (repeats > 1 and period * repeats > best[0] * best[1]):
            best = (period, repeats)
    return best


def place_of(groups: tuple[LayerGroup, ...], layer: int) -> LayerPlace:
    """Return the place of a layer's parameters."""
    for index, group in enumerate(groups):
        if layer < group.stop:
            repeat, member = divmod(layer - group.first, len(group.pattern))
            return LayerPlace(index, member, repeat)
    raise IndexError(layer)


def array_of(parameter: str, spec: ModelSpec) -> tuple[str, tuple[int, ...]]:
    """Return the first parameter of the array that contains `parameter`, and the index of
    `parameter` in this array. The index is empty if the parameter is not part of a layer.
    """
    if not parameter.startswith(_LAYERS):
        return parameter, ()
    groups, layer = layer_groups(spec), int(parameter.removeprefix(_LAYERS).split(".")[0])
    place = place_of(groups, layer)
    first = groups[place.group].first + place.member
    return parameter.replace(f"{_LAYERS}{layer}.", f"{_LAYERS}{first}.", 1), (place.repeat,)


def attention_of(layer: Layer) -> Attention | None:
    """Return the self-attention of a layer, or None. A layer has at most one self-attention
    mixer.
    """
    mixers = (branch.mixer for block in layer.blocks for branch in block.branches)
    return next((mixer for mixer in mixers if isinstance(mixer, Attention)), None)


@lru_cache(maxsize=16)
def cache_shapes(spec: ModelSpec) -> tuple[CacheShape, ...]:
    """Return the arrays of the cache, in the order in which their shapes first occur."""
    layers_of: dict[tuple[int, int], list[int]] = {}
    for index, layer in enumerate(spec.decoder.layers):
        mixer = attention_of(layer)
        if mixer is not None:
            layers_of.setdefault((mixer.num_kv_heads, mixer.head_dim), []).append(index)
    return tuple(
        CacheShape(kv_heads, head_dim, tuple(layers))
        for (kv_heads, head_dim), layers in layers_of.items()
    )
