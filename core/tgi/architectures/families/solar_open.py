"""solar_open: glm4_moe without dense layers, whose rotary embedding rotates whole heads."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.glm4_moe import mixture_of, weight_rules
from tgi.architectures.families.llama import attention_of, decoder_spec, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of SolarOpenForCausalLM from its config."""
    reader = ConfigReader(config)
    attention = attention_of(
        reader,
        default_kv_heads=8,
        default_head_dim=128,
        default_theta=1_000_000.0,
        qkv_bias=reader.boolean("attention_bias", default=False),
    )
    norm = rms_norm(reader, default_eps=1e-5)
    layers = (
        sequential(attention, mixture_of(reader, num_experts=128), norm=norm),
    ) * reader.integer("num_hidden_layers")
    return decoder_spec(reader, "solar_open", layers, final_norm=norm, weights=weight_rules())
