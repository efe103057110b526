"""qwen3_moe: qwen3 with a mixture of experts in all or some layers."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, rms_norm
from tgi.architectures.families.qwen2_moe import feed_forwards, weight_rules
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MLP, MixtureOfExperts, ModelSpec, Router

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Qwen3MoeForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, bias = rms_norm(reader), reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader, default_kv_heads=4, qkv_bias=bias, output_bias=bias, head_norm=norm
    )
    if reader.boolean("use_sliding_window", default=False):
        attention = msgspec.structs.replace(
            attention, window=reader.optional_integer("sliding_window", default=4096)
        )
    expert = MLP(
        intermediate_size=reader.integer("moe_intermediate_size", default=768),
        activation=reader.activation("hidden_act", default="silu"),
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_experts", "num_local_experts", default=128),
        experts_per_token=reader.integer("num_experts_per_tok", default=8),
        expert=expert,
        router=Router(normalize=reader.boolean("norm_topk_prob", default=False)),
    )
    layers = tuple(
        sequential(attention, feed_forward, norm=norm)
        for feed_forward in feed_forwards(reader, mixture)
    )
    return decoder_spec(reader, "qwen3_moe", layers, weights=weight_rules())
