"""The encoder, and the decoder's cross-attention to the encoder's output.

The encoder processes the whole input of a sequence at the beginning of the sequence's first step.
Only the keys and values that the cross-attention layers compute from the encoder's output are kept.

Shapes: E tokens of all encoders of a step, T tokens of the decoder, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import Attention, CrossAttention
from tgi.backend import ModelError
from tgi.worker.cache_layout import ENCODER_QUERY_CHUNK
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata, AttentionSettings, EncoderInput
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    ResidualBlock,
    StepContext,
    Transform,
    build_linear,
)
from tgi_torch.model.relative_bias import RelativePositionBias, distance_buckets
from tgi_torch.ops import Ops

__all__ = [
    "CrossAttentionMixer",
    "Encoder",
    "build_cross_attention",
    "build_encoder_attention",
    "relative_biases",
]


@final
@dataclass(frozen=True)
class EncoderAttentionMixer:
    """Bidirectional self-attention over each input text, without a cache."""

    qkv: Linear  # rows: query heads, key heads, value heads
    output: Linear
    num_heads: int
    scale: float
    bias: RelativePositionBias | None

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        # [H, E, D] each.
        query, key, value = self.qkv(x).view(x.shape[0], 3, self.num_heads, -1).permute(1, 2, 0, 3)
        out = torch.empty_like(query)
        for start, stop in pairwise(_bounds(context.metadata.query_lens)):
            position = torch.arange(stop - start, device=x.device)
            for first in range(start, stop, ENCODER_QUERY_CHUNK):
                last = min(first + ENCODER_QUERY_CHUNK, stop)
                distance = position[first - start : last - start, None] - position
                bias = None if self.bias is None else self.bias(distance).to(query.dtype)
                out[:, first:last] = functional.scaled_dot_product_attention(
                    query[:, first:last],
                    key[:, start:stop],
                    value[:, start:stop],
                    attn_mask=bias,
                    scale=self.scale,
                )
        return self.output(out.transpose(0, 1).flatten(1))


@final
@dataclass(frozen=True)
class CrossAttentionMixer:
    """Attention to the encoder's output. The keys and values of the encoder's output have their own
    cache.
    """

    ops: Ops
    query: Linear
    key_value: Linear  # rows: key heads, value heads
    output: Linear
    num_heads: int
    layer: int  # index of the layer's cross-attention cache
    settings: AttentionSettings

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        query = self.query(x).view(x.shape[0], self.num_heads, -1)
        cache = context.kv_cache.cross_layers[self.layer]
        return self.output(
            self.ops.paged_attention(query, cache, context.cross_plan, self.settings)
        )

    def write(self, encoded: Tensor, slot_mapping: Tensor, kv_cache: KVCache) -> None:
        """Store the keys and values of the encoder's output [E, hidden] at int64 [E] slots."""
        key, value = self.key_value(encoded).view(encoded.shape[0], 2, self.num_heads, -1).unbind(1)
        self.ops.write_kv(key, value, kv_cache.cross_layers[self.layer], slot_mapping)


@final
@dataclass(frozen=True)
class Encoder:
    """Computes the keys and values of input texts for the decoder."""

    embedding: Callable[[Tensor, Tensor], Tensor]
    blocks: tuple[ResidualBlock, ...]
    final_norm: Transform
    readers: tuple[CrossAttentionMixer, ...]

    def run(self, inputs: EncoderInput, kv_cache: KVCache) -> None:
        """Encode the texts of `inputs` and store the keys and values of the decoder's layers."""
        context = StepContext(
            metadata=_encoder_metadata(inputs), kv_cache=kv_cache, rotations=(), plans=()
        )
        x = self.embedding(inputs.token_ids, context.metadata.positions)
        for block in self.blocks:
            x = block(x, context)
        encoded = self.final_norm(x)
        for reader in self.readers:
            reader.write(encoded, inputs.slot_mapping, kv_cache)


def relative_biases(build: BuildContext) -> Callable[[Attention, str], RelativePositionBias | None]:
    """Return a function that finds the position bias of an attention mixer by its prefix.

    If the bias is shared, all layers use the bias of the first layer in the stack.
    """
    shared: dict[str, RelativePositionBias] = {}

    def find(spec: Attention, prefix: str) -> RelativePositionBias | None:
        rule = spec.relative_bias
        if rule is None:
            return None
        stack = prefix.split(".", maxsplit=1)[0]
        if rule.shared and stack in shared:
            return shared[stack]
        table = build.parameters.create(
            f"{prefix}.relative_bias.weight", rule.num_buckets, spec.num_heads
        )
        shared[stack] = RelativePositionBias(
            table, distance_buckets(rule).to(build.parameters.device)
        )
        return shared[stack]

    return find


def build_encoder_attention(
    build: BuildContext, spec: Attention, prefix: str, bias: RelativePositionBias | None
) -> Mixer:
    """Build attention with the parameters `<prefix>.{q,k,v,o}…`.

    Raises `ModelError` for a kind of attention that is not implemented for encoders.
    """
    plain = Attention(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_heads,
        head_dim=spec.head_dim,
        scale=spec.scale,
        qkv_bias=spec.qkv_bias,
        output_bias=spec.output_bias,
        relative_bias=spec.relative_bias,
        causal=False,
    )
    if spec != plain:
        raise ModelError(
            "this kind of attention is not implemented for encoders.",
            "Choose another model or another backend.",
        )
    size = spec.num_heads * spec.head_dim
    return EncoderAttentionMixer(
        qkv=build_linear(
            build, prefix, dict.fromkeys("qkv", size), build.hidden_size, bias=spec.qkv_bias
        ),
        output=build_linear(build, prefix, {"o": build.hidden_size}, size, bias=spec.output_bias),
        num_heads=spec.num_heads,
        scale=spec.scale,
        bias=bias,
    )


def build_cross_attention(
    build: BuildContext, spec: CrossAttention, prefix: str, *, layer: int
) -> CrossAttentionMixer:
    """Build cross-attention with the parameters `<prefix>.{q,k,v,o}…`."""
    size, hidden = spec.num_heads * spec.head_dim, build.hidden_size
    return CrossAttentionMixer(
        ops=build.ops,
        query=build_linear(build, prefix, {"q": size}, hidden, bias=spec.qkv_bias),
        key_value=build_linear(
            build, prefix, dict.fromkeys("kv", size), hidden, bias=spec.qkv_bias
        ),
        output=build_linear(build, prefix, {"o": hidden}, size, bias=spec.output_bias),
        num_heads=spec.num_heads,
        layer=layer,
        settings=AttentionSettings(scale=spec.scale),
    )


def _encoder_metadata(inputs: EncoderInput) -> AttentionMetadata:
    """Return the positions and lengths of the encoder's tokens. The result has no blocks."""
    device = inputs.token_ids.device
    bounds = torch.tensor(_bounds(inputs.lengths), dtype=torch.int32, device=device)
    return AttentionMetadata(
        positions=torch.cat([torch.arange(length, device=device) for length in inputs.lengths]),
        slot_mapping=inputs.slot_mapping,
        block_tables=torch.empty(len(inputs.lengths), 0, dtype=torch.int32, device=device),
        cu_seqlens_q=bounds,
        seq_lens=bounds.diff(),
        query_lens=inputs.lengths,
        context_lens=inputs.lengths,
    )


def _bounds(lengths: tuple[int, ...]) -> list[int]:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return bounds
