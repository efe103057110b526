"""Builds the mixers that the layers of a spec describe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeVar, final

from tgi.architectures import (
    MLP,
    Attention,
    CrossAttention,
    GatedRecurrence,
    LatentAttention,
    LayerInput,
    LightningAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
    Rope,
    ShortConvolution,
    StateSpace,
)
from tgi.backend import ModelError
from tgi.worker.cache_layout import RecurrentMixer, TokenMixer
from tgi_torch.attention.key_range import KeyRange
from tgi_torch.model.embedding import build_layer_input
from tgi_torch.model.encoder_decoder import (
    CrossAttentionMixer,
    build_cross_attention,
    build_encoder_attention,
    relative_biases,
)
from tgi_torch.model.gated_recurrence import build_gated_recurrence
from tgi_torch.model.latent_attention import build_latent_attention
from tgi_torch.model.layers import BuildContext, Mixer
from tgi_torch.model.linear_attention import build_lightning_attention, build_linear_attention
from tgi_torch.model.mixers import build_attention, build_mlp
from tgi_torch.model.mixture_of_experts import build_mixture_of_experts
from tgi_torch.model.short_convolution import build_short_convolution
from tgi_torch.model.state_space import build_state_space

__all__ = ["MixerBuilder"]

ItemT = TypeVar("ItemT")


@final
class MixerBuilder:
    """Builds mixers in the order of the layers and assigns the indices of their caches."""

    def __init__(self, build: BuildContext, spec: ModelSpec) -> None:
        attentions = [mixer for mixer in spec.decoder.mixers if isinstance(mixer, TokenMixer)]
        self.key_ranges = _distinct(_key_range(mixer) for mixer in attentions)
        self.ropes: tuple[Rope, ...] = _distinct(
            mixer.rope for mixer in attentions if mixer.rope is not None
        )
        self.readers: list[CrossAttentionMixer] = []
        self._build = build
        self._spec = spec
        self._find_relative_bias = relative_biases(build)
        self._num_attentions = itertools.count()
        self._caches: dict[int, int] = {}  # index of the cache of each layer with attention
        self._num_states = itertools.count()

    def build(self, mixer: object, prefix: str) -> Mixer:
        """Build the mixer that computes `mixer`. Raises `ModelError` if it is not supported."""
        match mixer:
            case Attention() | LatentAttention():
                return self._build_attention(mixer, prefix)
            case CrossAttention():
                reader = build_cross_attention(self._build, mixer, prefix, layer=len(self.readers))
                self.readers.append(reader)
                return reader
            case (
                StateSpace()
                | LinearAttention()
                | ShortConvolution()
                | GatedRecurrence()
                | LightningAttention()
            ):
                return self._build_recurrent(mixer, prefix)
            case LayerInput():
                return build_layer_input(self._build, mixer, prefix, layer=_layer_of(prefix))
            case MLP():
                return build_mlp(self._build, mixer, prefix)
            case MixtureOfExperts():
                return build_mixture_of_experts(self._build, mixer, prefix)
        raise _not_built(self._spec, f"the mixer {type(mixer).__name__}")

    def _build_recurrent(self, mixer: RecurrentMixer, prefix: str) -> Mixer:
        build, layer = self._build, next(self._num_states)
        match mixer:
            case StateSpace():
                return build_state_space(build, mixer, prefix, layer=layer)
            case LinearAttention():
                return build_linear_attention(build, mixer, prefix, layer=layer)
            case ShortConvolution():
                return build_short_convolution(build, mixer, prefix, layer=layer)
            case GatedRecurrence():
                return build_gated_recurrence(build, mixer, prefix, layer=layer)
            case LightningAttention():
                return build_lightning_attention(build, mixer, prefix, layer=layer)

    def _build_attention(self, mixer: TokenMixer, prefix: str) -> Mixer:
        build = self._build
        if isinstance(mixer, LatentAttention):
            plan, rotation = self.key_ranges.index(_key_range(mixer)), self.ropes.index(mixer.rope)
            layer = next(self._num_attentions)
            return build_latent_attention(
                build, mixer, prefix, layer=layer, plan=plan, rotation=rotation
            )
        bias = self._find_relative_bias(mixer, prefix)
        if prefix.startswith("encoder."):
            return build_encoder_attention(build, mixer, prefix, bias)
        if mixer.cache_of_layer is None:
            cache = self._caches[_layer_of(prefix)] = next(self._num_attentions)
        else:
            cache = self._caches[mixer.cache_of_layer]
        return build_attention(
            build,
            mixer,
            prefix,
            layer=cache,
            plan=self.key_ranges.index(_key_range(mixer)),
            rotation=None if mixer.rope is None else self.ropes.index(mixer.rope),
            relative_bias=bias,
        )


def _layer_of(prefix: str) -> int:
    """Return the number of the layer in the prefix of its parameters."""
    return int(prefix.split(".")[2])


def _key_range(mixer: TokenMixer) -> KeyRange:
    return KeyRange(mixer.window, mixer.chunk) if isinstance(mixer, Attention) else KeyRange()


def _not_built(spec: ModelSpec, what: str) -> ModelError:
    return ModelError(
        f"{spec.model_type}: {what} is not supported yet.",
        "Choose another model or another backend.",
    )


def _distinct(items: Iterator[ItemT]) -> tuple[ItemT, ...]:
    return tuple(dict.fromkeys(items))
