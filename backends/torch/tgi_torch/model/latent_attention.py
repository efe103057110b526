"""Multi-head latent attention (DeepSeek V2, arXiv 2405.04434) over the paged cache.

The cache contains one vector per token for all heads: the normalised latent vector, followed by the
rotated part of the key. The up-projection is not applied to the cached vectors. Instead, it is
applied to the query, and to the weighted sum of the latent vectors (section 2.1.2 of the paper):

    q_nope · (W_k latent) = (W_k' q_nope) · latent          sum p (W_v latent) = W_v (sum p latent)

Each step therefore computes attention of all query heads over a single kv head. The value of this
kv head is the first part of its key.

Shapes: T tokens, H heads, L the latent vector's size, N and R a head's sizes without and with
rotation, V a value head's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tgi.architectures import LatentAttention
from tgi_torch.attention.paged import AttentionSettings
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    StepContext,
    Transform,
    build_linear,
    build_norm,
)
from tgi_torch.ops import Ops

__all__ = ["LatentAttentionMixer", "build_latent_attention"]


@final
@dataclass(frozen=True)
class LatentAttentionMixer:
    """Latent attention. The keys and values of the individual heads are never built."""

    ops: Ops
    spec: LatentAttention
    project_query: Transform  # [T, hidden] to [T, H * (N + R)]
    project_latent: Linear  # [T, hidden] to [T, L + R]
    latent_norm: Transform
    # The up-projection [H * (N + V), L] contains for each head the key rows, then the value rows.
    expand: Tensor
    output: Linear
    layer: int  # index of the layer's cache
    plan: int  # index in StepContext.plans
    rotation: int  # index in StepContext.rotations
    settings: AttentionSettings

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        spec = self.spec
        heads = self.project_query(x).view(
            -1, spec.num_heads, spec.qk_nope_head_dim + spec.qk_rope_head_dim
        )
        kept = self.project_latent(x)
        rotary = torch.cat(
            [heads[..., spec.qk_nope_head_dim :], kept[:, None, spec.kv_lora_rank :]], dim=1
        )
        self.ops.rotary(rotary, context.rotations[self.rotation], spec.rope.interleaved)
        expand = self.expand.view(spec.num_heads, -1, spec.kv_lora_rank)
        to_key, to_value = expand[:, : spec.qk_nope_head_dim], expand[:, spec.qk_nope_head_dim :]
        query = torch.cat(
            [
                torch.einsum("thn,hnl->thl", heads[..., : spec.qk_nope_head_dim], to_key),
                rotary[:, :-1],
            ],
            dim=-1,
        )
        key = torch.cat(
            [self.latent_norm(kept[:, : spec.kv_lora_rank]).unsqueeze(1), rotary[:, -1:]], dim=-1
        )
        cache = context.kv_cache.layers[self.layer]
        self.ops.write_kv(key, key[..., : spec.kv_lora_rank], cache, context.metadata.slot_mapping)
        mixed = self.ops.paged_attention(query, cache, context.plans[self.plan], self.settings)
        mixed = torch.einsum(
            "thl,hvl->thv", mixed.view(-1, spec.num_heads, spec.kv_lora_rank), to_value
        )
        return self.output(mixed.flatten(1))


@final
@dataclass(frozen=True)
class LowRankQuery:
    """Computes the query projection up(norm(down(x)))."""

    down: Linear
    norm: Transform
    up: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return self.up(self.norm(self.down(x)))


def build_latent_attention(
    build: BuildContext, spec: LatentAttention, prefix: str, *, layer: int, plan: int, rotation: int
) -> Mixer:
    """Build latent attention.

    The parameters are `<prefix>.{q | q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b, o}…`.
    """
    value_size = spec.num_heads * spec.v_head_dim
    return LatentAttentionMixer(
        ops=build.ops,
        spec=spec,
        project_query=_build_query(build, spec, prefix),
        project_latent=build_linear(
            build,
            prefix,
            {"kv_a": spec.kv_lora_rank + spec.qk_rope_head_dim},
            build.hidden_size,
            bias=spec.qkv_bias,
        ),
        latent_norm=build_norm(build, spec.norm, f"{prefix}.kv_a_norm", spec.kv_lora_rank),
        expand=build.parameters.create(
            f"{prefix}.kv_b.weight",
            spec.num_heads * (spec.qk_nope_head_dim + spec.v_head_dim),
            spec.kv_lora_rank,
        ),
        output=build_linear(
            build, prefix, {"o": build.hidden_size}, value_size, bias=spec.output_bias
        ),
        layer=layer,
        plan=plan,
        rotation=rotation,
        settings=AttentionSettings(scale=spec.scale),
    )


def _build_query(build: BuildContext, spec: LatentAttention, prefix: str) -> Transform:
    rows = spec.num_heads * (spec.qk_nope_head_dim + spec.qk_rope_head_dim)
    if spec.q_lora_rank is None:
        return build_linear(build, prefix, {"q": rows}, build.hidden_size, bias=False)
    return LowRankQuery(
        down=build_linear(
            build, prefix, {"q_a": spec.q_lora_rank}, build.hidden_size, bias=spec.qkv_bias
        ),
        norm=build_norm(build, spec.norm, f"{prefix}.q_a_norm", spec.q_lora_rank),
        up=build_linear(build, prefix, {"q_b": rows}, spec.q_lora_rank, bias=False),
    )
