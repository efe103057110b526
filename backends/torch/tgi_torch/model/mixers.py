"""The attention and MLP mixers of a `ModelSpec`.

The builders make every choice that depends on the spec. Calls do not branch on the spec.

Shapes: T tokens, H query heads, K kv heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from tgi.architectures import MLP, Activation, Attention, Norm, PositionScale
from tgi.architectures.mixers import XIELU_BETA, XIELU_EPSILON
from tgi.backend import ModelError
from tgi_torch.attention.alibi import alibi_slopes
from tgi_torch.attention.kv_cache import LayerCache
from tgi_torch.attention.paged import AttentionSettings
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    StepContext,
    Transform,
    build_linear,
    build_norm,
    identity,
)
from tgi_torch.model.relative_bias import RelativePositionBias
from tgi_torch.model.rotary import Rotation
from tgi_torch.ops import Ops

__all__ = ["AttentionMixer", "MLPMixer", "build_attention", "build_mlp"]

Rotate = Callable[[Tensor, StepContext], None]
StoreKeys = Callable[[Tensor, Tensor, LayerCache, Tensor], None]
"""Stores keys [T, K, D] and values [T, K * Dv] in a cache, at the slots int64 [T]."""


@final
@dataclass(frozen=True)
class AttentionMixer:
    """Self-attention over the paged cache."""

    ops: Ops
    qkv: Linear  # rows: query heads, and if the layer has its own cache, key heads and value heads
    output: Linear
    num_heads: int
    num_keys: int  # number of key heads in `qkv`
    head_dim: int
    layer: int  # index of the layer's cache
    plan: int  # index in StepContext.plans
    normalize: Transform  # for the query and key heads [T, H + K, D]
    clip: Transform
    rotate: Rotate  # rotates the query and key heads in place
    normalize_rotated: Transform  # for the rotated query and key heads [T, H + K, D]
    scale_query: Callable[[Tensor, Tensor], Tensor]  # maps (query, positions) to scaled queries
    gate: Callable[[Tensor, Tensor], Tensor]  # maps (x, outputs of the heads) to gated outputs
    store: StoreKeys
    settings: AttentionSettings

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        num_rotated = self.num_heads + self.num_keys
        qkv = self.qkv(x)
        heads = self.clip(
            self.normalize(
                qkv[:, : num_rotated * self.head_dim].view(-1, num_rotated, self.head_dim)
            )
        )
        self.rotate(heads, context)
        heads = self.normalize_rotated(heads)
        query = self.scale_query(heads[:, : self.num_heads], context.metadata.positions)
        cache = context.kv_cache.layers[self.layer]
        value = qkv[:, num_rotated * self.head_dim :]
        self.store(heads[:, self.num_heads :], value, cache, context.metadata.slot_mapping)
        return self.output(
            self.gate(
                x, self.ops.paged_attention(query, cache, context.plans[self.plan], self.settings)
            )
        )


@final
@dataclass(frozen=True)
class KeyValueWriter:
    """Stores the keys and values of a layer in the cache of the layer."""

    ops: Ops
    prepare: Transform  # clips or normalises the values [T, K, Dv]
    v_head_dim: int

    def __call__(self, key: Tensor, value: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
        value = self.prepare(value.view(value.shape[0], -1, self.v_head_dim))
        self.ops.write_kv(key, value, cache, slot_mapping)


def build_attention(
    build: BuildContext,
    spec: Attention,
    prefix: str,
    *,
    layer: int,
    plan: int,
    rotation: int | None,
    relative_bias: RelativePositionBias | None = None,
) -> Mixer:
    """Build attention with the parameters `<prefix>.{q,k,v,o,q_norm,k_norm}…`.

    `rotation` is the index in `StepContext.rotations`. Raises `ModelError` if the attention is not
    causal.
    """
    if not spec.causal:
        raise ModelError(
            "a decoder whose attention is not causal cannot be served.", "Choose another model."
        )
    v_head_dim = spec.head_dim if spec.v_head_dim is None else spec.v_head_dim
    has_cache = spec.cache_of_layer is None
    rows = {"q": spec.num_heads * spec.head_dim}
    if has_cache:
        rows |= {"k": spec.num_kv_heads * spec.head_dim, "v": spec.num_kv_heads * v_head_dim}
    norm_of_heads, is_after = _build_qk_norm(build, spec, prefix), spec.qk_norm_after_rope
    return AttentionMixer(
        ops=build.ops,
        qkv=build_linear(build, prefix, rows, build.hidden_size, bias=spec.qkv_bias),
        output=build_linear(
            build,
            prefix,
            {"o": build.hidden_size},
            spec.num_heads * v_head_dim,
            bias=spec.output_bias,
        ),
        num_heads=spec.num_heads,
        num_keys=spec.num_kv_heads if has_cache else 0,
        head_dim=spec.head_dim,
        layer=layer,
        plan=plan,
        clip=_build_clip(spec),
        normalize=identity if is_after else norm_of_heads,
        rotate=_build_rotate(build.ops, spec, rotation),
        normalize_rotated=norm_of_heads if is_after else identity,
        scale_query=_build_query_scale(spec),
        gate=_build_gate(build, spec, prefix),
        store=_build_store(build, spec, prefix, v_head_dim) if has_cache else _store_nothing,
        settings=_build_settings(build, spec, prefix, relative_bias),
    )


def _build_clip(spec: Attention) -> Transform:
    if spec.clip_qkv is None:
        return identity
    return partial(torch.clamp, min=-spec.clip_qkv, max=spec.clip_qkv)


def _build_store(build: BuildContext, spec: Attention, prefix: str, v_head_dim: int) -> StoreKeys:
    if spec.v_norm is None:
        return KeyValueWriter(build.ops, _build_clip(spec), v_head_dim)
    assert not spec.v_norm.weight, "no model has weights in the value norm"
    assert spec.clip_qkv is None, "no model clips and normalises the values"
    normalize = build_norm(build, spec.v_norm, f"{prefix}.v_norm", v_head_dim)
    return KeyValueWriter(build.ops, normalize, v_head_dim)


def _store_nothing(key: Tensor, value: Tensor, cache: LayerCache, slot_mapping: Tensor) -> None:
    """Do nothing, because the cache belongs to another layer, which stores its keys before."""


def _build_settings(
    build: BuildContext, spec: Attention, prefix: str, relative_bias: RelativePositionBias | None
) -> AttentionSettings:
    parameters = build.parameters
    return AttentionSettings(
        scale=spec.scale,
        softcap=spec.softcap,
        alibi_slopes=_alibi_slopes(spec).to(parameters.device) if spec.alibi else None,
        sinks=parameters.create(f"{prefix}.sinks", spec.num_heads) if spec.sinks else None,
        relative_bias=relative_bias,
    )


def _alibi_slopes(spec: Attention) -> Tensor:
    return alibi_slopes(spec.num_heads, spec.alibi_bias_max) * spec.alibi_scale


def _build_gate(
    build: BuildContext, spec: Attention, prefix: str
) -> Callable[[Tensor, Tensor], Tensor]:
    if not spec.output_gate:
        return _ungated
    if spec.output_gate_over == "head":
        gate = build_linear(build, prefix, {"gate": spec.num_heads}, build.hidden_size, bias=False)
        return partial(_gated_heads, gate)
    size = spec.num_heads * (spec.head_dim if spec.v_head_dim is None else spec.v_head_dim)
    return partial(
        _gated, build_linear(build, prefix, {"gate": size}, build.hidden_size, bias=spec.qkv_bias)
    )


def _ungated(x: Tensor, mixed: Tensor) -> Tensor:
    return mixed


def _gated(gate: Linear, x: Tensor, mixed: Tensor) -> Tensor:
    return mixed * torch.sigmoid(gate(x))


def _gated_heads(gate: Linear, x: Tensor, mixed: Tensor) -> Tensor:
    """Multiply the outputs of each head by a gate. `mixed` is [T, H * D]."""
    weights = torch.sigmoid(gate(x)).unsqueeze(-1)
    return (mixed.view(*weights.shape[:2], -1) * weights).flatten(1)


def _build_qk_norm(build: BuildContext, spec: Attention, prefix: str) -> Transform:
    if spec.q_norm is None and spec.k_norm is None:
        return identity
    q_norm = _build_norm_of_heads(build, spec, spec.q_norm, f"{prefix}.q_norm", spec.num_heads)
    k_norm = _build_norm_of_heads(
        build,
        spec,
        spec.k_norm if spec.cache_of_layer is None else None,
        f"{prefix}.k_norm",
        spec.num_kv_heads,
    )
    return partial(_normalize_heads, q_norm, k_norm, spec.num_heads)


def _build_norm_of_heads(
    build: BuildContext, spec: Attention, norm: Norm | None, prefix: str, num_heads: int
) -> Transform:
    """Build the norm of heads [T, num_heads, D]."""
    if norm is None:
        return identity
    match spec.qk_norm_over:
        case "head":
            return build_norm(build, norm, prefix, spec.head_dim)
        case "all":
            return partial(
                _over_all_heads, build_norm(build, norm, prefix, num_heads * spec.head_dim)
            )
        case "each_head":
            assert norm.weight, "without weights, a norm for each head is the norm over a head"
            assert not (norm.bias or norm.unit_offset), "not supported in a norm for each head"
            plain = build_norm(
                build, msgspec.structs.replace(norm, weight=False), prefix, spec.head_dim
            )
            return partial(
                _weight_each_head,
                plain,
                build.parameters.create(f"{prefix}.weight", num_heads, spec.head_dim),
            )


def _over_all_heads(norm: Transform, heads: Tensor) -> Tensor:
    return norm(heads.flatten(1)).view(heads.shape)


def _weight_each_head(norm: Transform, weight: Tensor, heads: Tensor) -> Tensor:
    return norm(heads) * weight


def _normalize_heads(q_norm: Transform, k_norm: Transform, num_heads: int, heads: Tensor) -> Tensor:
    return torch.cat([q_norm(heads[:, :num_heads]), k_norm(heads[:, num_heads:])], dim=1)


def _build_rotate(ops: Ops, spec: Attention, rotation: int | None) -> Rotate:
    if spec.rope is None or rotation is None:
        return _no_rotation
    return partial(_rotate, ops.rotary, rotation, spec.rope.interleaved)


def _build_query_scale(spec: Attention) -> Callable[[Tensor, Tensor], Tensor]:
    rule = spec.position_scale
    return _unscaled if rule is None else partial(_scale_query, rule)


def _unscaled(query: Tensor, positions: Tensor) -> Tensor:
    return query


def _scale_query(rule: PositionScale, query: Tensor, positions: Tensor) -> Tensor:
    """Multiply the queries [T, H, D] by the factors of their positions int64 [T]."""
    turns = (positions + rule.offset) // rule.period
    scale = 1 + rule.beta * torch.log1p(turns.float())
    return query * scale.to(query.dtype)[:, None, None]


def _no_rotation(heads: Tensor, context: StepContext) -> None:
    """Do nothing. This function is used by models without rotary embedding."""


def _rotate(
    rotary: Callable[[Tensor, Rotation, bool], None],
    rotation: int,
    interleaved: bool,
    heads: Tensor,
    context: StepContext,
) -> None:
    rotary(heads, context.rotations[rotation], interleaved)


@final
@dataclass(frozen=True)
class MLPMixer:
    """Computes down(activation(expand(x))). If the MLP is gated, `expand` computes gate and up in
    one product.
    """

    expand: Linear
    activation: Transform
    down: Linear

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        return self.down(self.activation(self.expand(x)))


def build_mlp(build: BuildContext, spec: MLP, prefix: str) -> MLPMixer:
    """Build a feed-forward layer with the parameters `<prefix>.{gate,up,down}…`."""
    names = ("gate", "up") if spec.gated else ("up",)
    rows = dict.fromkeys(names, spec.intermediate_size)
    return MLPMixer(
        expand=build_linear(build, prefix, rows, build.hidden_size, bias=spec.bias),
        activation=_build_activation(build, spec, prefix),
        down=build_linear(
            build, prefix, {"down": build.hidden_size}, spec.intermediate_size, bias=spec.bias
        ),
    )


def _build_activation(build: BuildContext, spec: MLP, prefix: str) -> Transform:
    if spec.activation == "xielu":
        assert not spec.gated, "no model has a gated xielu"
        alpha_p, alpha_n = (
            build.parameters.create(f"{prefix}.{name}", 1) for name in ("alpha_p", "alpha_n")
        )
        return partial(_xielu, alpha_p, alpha_n)
    apply = build.ops.gated_activation if spec.gated else build.ops.activation
    return partial(_activate, apply, spec.activation)


def _xielu(alpha_p: Tensor, alpha_n: Tensor, x: Tensor) -> Tensor:
    """Apply xIELU (arXiv 2411.13010) to x [T, n]. A softplus is applied to the two parameters [1].

    The formula and its rounding in 16 bits are those of `transformers`.
    """
    above = functional.softplus(alpha_p) * x * x + XIELU_BETA * x
    below = torch.expm1(x.clamp(max=XIELU_EPSILON)) - x
    return torch.where(
        x > 0, above, below * (XIELU_BETA + functional.softplus(alpha_n)) + XIELU_BETA * x
    )


def _activate(apply: Callable[[Tensor, Activation], Tensor], kind: Activation, x: Tensor) -> Tensor:
    return apply(x, kind)
