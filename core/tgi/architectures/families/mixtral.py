"""mixtral: mistral with a mixture of experts in place of the MLP."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["EXPERTS", "spec", "weight_rules"]

EXPERTS: Modules = {
    "moe.router": "block_sparse_moe.gate",
    "moe.experts.gate": "block_sparse_moe.experts.{expert}.w1",
    "moe.experts.up": "block_sparse_moe.experts.{expert}.w3",
    "moe.experts.down": "block_sparse_moe.experts.{expert}.w2",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MixtralForCausalLM from its config."""
    reader = ConfigReader(config)
    attention = attention_of(reader, default_kv_heads=8, default_theta=1_000_000.0)
    attention = msgspec.structs.replace(
        attention, window=reader.optional_integer("sliding_window", default=None)
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=8),
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=mlp_of(reader),
        router=Router(),
    )
    norm = rms_norm(reader, default_eps=1e-5)
    layers = (sequential(attention, mixture, norm=norm),) * reader.integer("num_hidden_layers")
    return decoder_spec(reader, "mixtral", layers, final_norm=norm, weights=weight_rules())


def weight_rules() -> tuple[WeightRule, ...]:
    """The weight rules of mixtral and phimoe."""
    return module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | ATTENTION | EXPERTS)
