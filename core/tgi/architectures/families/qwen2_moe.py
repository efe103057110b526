"""qwen2_moe: qwen2 with a mixture of experts and a gated shared expert in all or some layers."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    HEAD_NORMS,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import FeedForward, sequential
from tgi.architectures.spec import MLP, Attention, MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["feed_forwards", "spec", "weight_rules"]

_EXPERTS: Modules = {
    "moe.router": "mlp.gate",
    "moe.shared_gate": "mlp.shared_expert_gate",
    **{
        f"moe.experts.{part}": f"mlp.experts.{{expert}}.{part}_proj"
        for part in ("gate", "up", "down")
    },
    **{f"moe.shared.{part}": f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")},
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Qwen2MoeForCausalLM from its config."""
    reader = ConfigReader(config)
    norm = rms_norm(reader)
    shared = _sized(reader, reader.integer("shared_expert_intermediate_size", default=5632))
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_experts", default=60),
        experts_per_token=reader.integer("num_experts_per_tok", default=4),
        expert=_sized(reader, reader.integer("moe_intermediate_size", default=1408)),
        router=Router(normalize=reader.boolean("norm_topk_prob", default=False)),
        shared=shared,
        shared_gate=True,
    )
    attention = attention_of(
        reader, default_kv_heads=16, qkv_bias=reader.boolean("qkv_bias", default=True)
    )
    layers = tuple(
        sequential(item, feed_forward, norm=norm)
        for item, feed_forward in zip(
            _windowed(reader, attention), feed_forwards(reader, mixture), strict=True
        )
    )
    return decoder_spec(reader, "qwen2_moe", layers, weights=weight_rules())


def feed_forwards(reader: ConfigReader, mixture: MixtureOfExperts) -> tuple[FeedForward, ...]:
    """The feed-forward mixer of each layer.

    Every `decoder_sparse_step`-th layer that is not in `mlp_only_layers` has the mixture. The
    others have a plain MLP.
    """
    dense, step = (
        reader.integers("mlp_only_layers"),
        reader.integer("decoder_sparse_step", default=1),
    )
    return tuple(
        mlp_of(reader) if layer in dense or (layer + 1) % step else mixture
        for layer in range(reader.integer("num_hidden_layers"))
    )


def _sized(reader: ConfigReader, intermediate_size: int) -> MLP:
    return MLP(
        intermediate_size=intermediate_size,
        activation=reader.activation("hidden_act", default="silu"),
    )


def _windowed(reader: ConfigReader, attention: Attention) -> tuple[Attention, ...]:
    """One attention per layer, with a window in some layers if windows are enabled.

    These are the layers that `layer_types` names, otherwise every other layer below
    `max_window_layers`.
    """
    num_layers = reader.integer("num_hidden_layers")
    if not reader.boolean("use_sliding_window", default=False):
        return (attention,) * num_layers
    sliding = msgspec.structs.replace(
        attention, window=reader.integer("sliding_window", default=4096)
    )
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), num_layers)
    if kinds is None:
        below = reader.integer("max_window_layers", default=28, minimum=0)
        return tuple(
            sliding if layer < below and layer % 2 == 0 else attention
            for layer in range(num_layers)
        )
    return tuple(sliding if kind == "sliding_attention" else attention for kind in kinds)


def weight_rules() -> tuple[WeightRule, ...]:
    """The weight rules of qwen2_moe and qwen3_moe."""
    return module_rules(FRAME) + layer_rules(
        LAYER, PRE_NORMS | ATTENTION | HEAD_NORMS | GATED_MLP | _EXPERTS
    )
