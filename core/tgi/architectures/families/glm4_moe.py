"""glm4_moe (GLM-4.5 to 4.7): plain attention with deepseek_v3's mixture of experts.

The first layers have a plain MLP. The rotary embedding rotates half of each head.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import CORRECTION, EXPERTS
from tgi.architectures.families.deepseek_v3 import sigmoid_router
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    HEAD_NORMS,
    IGNORED,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import dense_layers, sequential
from tgi.architectures.spec import MLP, MixtureOfExperts, ModelSpec, WeightRule
from tgi.architectures.weight_names import layer_rules, module_rules

__all__ = ["mixture_of", "spec", "weight_rules"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Glm4MoeForCausalLM from its config."""
    reader, num_layers = ConfigReader(config), ConfigReader(config).integer("num_hidden_layers")
    norm = rms_norm(reader, default_eps=1e-5)
    attention = attention_of(
        reader,
        default_kv_heads=8,
        default_partial=0.5,
        qkv_bias=reader.boolean("attention_bias", default=False),
        head_norm=norm if reader.boolean("use_qk_norm", default=False) else None,
    )
    mixture = mixture_of(reader, num_experts=128)
    layers = tuple(
        sequential(attention, mlp_of(reader) if dense else mixture, norm=norm)
        for dense in dense_layers(reader, num_layers, default=1)
    )
    spec = decoder_spec(reader, "glm4_moe", layers, final_norm=norm, weights=weight_rules())
    # The layers after the last one serve multi-token prediction.
    return msgspec.structs.replace(spec, ignored=(*IGNORED, f"model.layers.{num_layers}.*"))


def mixture_of(reader: ConfigReader, *, num_experts: int) -> MixtureOfExperts:
    """Read a mixture of experts with the fields of glm4_moe.

    `num_experts` is the default for `n_routed_experts`.
    """
    size = reader.integer("moe_intermediate_size")
    expert = MLP(intermediate_size=size, activation=reader.activation("hidden_act", default="silu"))
    num_shared = reader.integer("n_shared_experts", "num_shared_experts", default=1, minimum=0)
    shared = msgspec.structs.replace(expert, intermediate_size=size * num_shared)
    return MixtureOfExperts(
        num_experts=reader.integer(
            "n_routed_experts", "num_experts", "num_local_experts", default=num_experts
        ),
        experts_per_token=reader.integer("num_experts_per_tok", default=8),
        expert=expert,
        router=sigmoid_router(reader, scale=1.0, num_groups=1, groups_per_token=1),
        shared=shared if num_shared else None,
    )


def weight_rules() -> tuple[WeightRule, ...]:
    """The weight rules of glm4_moe and solar_open."""
    return (
        *module_rules(FRAME),
        *layer_rules(LAYER, PRE_NORMS | ATTENTION | HEAD_NORMS | GATED_MLP | EXPERTS),
        CORRECTION,
    )
