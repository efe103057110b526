"""Describes the parts of a model spec in a few words each, for the page of supported models."""

from __future__ import annotations

from collections.abc import Iterator

from tgi.architectures import (
    MLP,
    Attention,
    CrossAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
    StateSpace,
)
from tgi.architectures.parameter_names import mixer_tag
from tgi.architectures.spec import Block, Mixer, Rope

__all__ = ["element_words", "mixer_words"]

_SCALINGS = {
    "DynamicScaling": "dynamic NTK scaling",
    "LinearScaling": "linear position scaling",
    "Llama3Scaling": "Llama 3 position scaling",
    "LongRopeScaling": "LongRoPE",
    "ProportionalScaling": "rotation of a part of the pairs",
    "YarnScaling": "YaRN",
}


def mixer_words(spec: ModelSpec) -> tuple[str, ...]:
    """Return the kinds of mixers of the model in the order of their first occurrence."""
    return tuple(dict.fromkeys(_mixer(mixer) for mixer in _mixers(spec)))


def element_words(spec: ModelSpec) -> tuple[str, ...]:
    """Return the parts of the model in which families differ, such as its position encoding and its
    soft caps.
    """
    return tuple(dict.fromkeys(_elements(spec)))


def _mixers(spec: ModelSpec) -> Iterator[Mixer]:
    return (branch.mixer for block in _blocks(spec) for branch in block.branches)


def _blocks(spec: ModelSpec) -> Iterator[Block]:
    return (block for stack in spec.stacks for layer in stack.layers for block in layer.blocks)


def _mixer(mixer: Mixer) -> str:
    match mixer:
        case Attention(causal=False):
            return "attention without a causal mask"
        case Attention(chunk=int()):
            return "attention in chunks"
        case Attention(window=None):
            return "attention"
        case Attention():
            return "attention with a sliding window"
        case CrossAttention():
            return "cross-attention"
        case LatentAttention():
            return "latent attention"
        case StateSpace():
            return "Mamba" if mixer.version == 1 else f"Mamba {mixer.version}"
        case LinearAttention():
            return "linear attention"
        case MLP():
            return "gated MLP" if mixer.gated else "MLP"
        case MixtureOfExperts():
            shared = " with a shared expert" if mixer.shared is not None else ""
            return f"mixture of experts{shared}"
        case _:
            return mixer_tag(mixer).replace("_", " ")


def _elements(spec: ModelSpec) -> Iterator[str]:
    if len(spec.stacks) > 1:
        yield "encoder and decoder"
    if spec.embedding.positions is not None:
        kind = type(spec.embedding.positions).__name__
        yield {"LearnedPositions": "learned positions"}.get(kind, "sinusoidal positions")
    if spec.embedding.size not in (None, spec.hidden_size):
        yield "embedding of another size"
    for mixer in _mixers(spec):
        yield from _mixer_elements(mixer)
    for block in _blocks(spec):
        yield from _block_elements(block)
    if spec.head.softcap is not None:
        yield "soft cap of the logits"


def _mixer_elements(mixer: Mixer) -> Iterator[str]:
    if isinstance(mixer, Attention):
        yield from _attention_elements(mixer)
    elif isinstance(mixer, LatentAttention):
        yield from _rope_elements(mixer.rope, mixer.qk_rope_head_dim)
        if mixer.index_top_k is not None:
            yield f"index of keys (contexts of at most {mixer.index_top_k} tokens)"
    elif isinstance(mixer, MLP) and mixer.activation == "xielu":
        yield "xIELU"
    elif isinstance(mixer, MixtureOfExperts):
        if mixer.router.score != "softmax":
            yield f"{mixer.router.score.replace('_', ' ')} router"
        if mixer.router.num_groups > 1:
            yield "groups of experts"


def _attention_elements(mixer: Attention) -> Iterator[str]:
    if mixer.rope is not None:
        yield from _rope_elements(mixer.rope, mixer.head_dim)
    present = {
        "ALiBi": mixer.alibi,
        "relative position bias": mixer.relative_bias is not None,
        "query and key norms": mixer.q_norm is not None,
        "attention sinks": mixer.sinks,
        "shared keys and values": mixer.cache_of_layer is not None,
        "soft cap of the scores": mixer.softcap is not None,
        "clipped queries, keys and values": mixer.clip_qkv is not None,
        "output gate": mixer.output_gate,
        "query scale by position": mixer.position_scale is not None,
    }
    yield from (words for words, is_present in present.items() if is_present)


def _rope_elements(rope: Rope, head_dim: int) -> Iterator[str]:
    part = "partial " if rope.rotary_dim < head_dim else ""
    yield f"{part}rotary embedding"
    if rope.scaling is not None:
        kind = type(rope.scaling).__name__
        yield _SCALINGS.get(kind, kind)


def _block_elements(block: Block) -> Iterator[str]:
    present = {
        "parallel mixers": len(block.branches) > 1,
        "norms after the mixers": any(branch.post_norm is not None for branch in block.branches),
        "norms on the residual": block.residual_from_norm or block.output_norm is not None,
        "scaled residual": block.residual_scale != 1.0,
    }
    yield from (words for words, is_present in present.items() if is_present)
