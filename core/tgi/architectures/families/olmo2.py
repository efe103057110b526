"""olmo2: llama with norms after the mixers.

There is one norm over all query heads, and one over all key heads.
"""

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
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec", "weight_rules"]

_POST_NORMS: Modules = {
    "attention.post_norm": "post_attention_layernorm",
    "mlp.post_norm": "post_feedforward_layernorm",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Olmo2ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader, default_eps=1e-5)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias, head_norm=norm)
    attention = msgspec.structs.replace(attention, qk_norm_over="all")
    layers = (sequential(attention, mlp_of(reader), post_norm=norm),) * reader.integer(
        "num_hidden_layers"
    )
    return decoder_spec(reader, "olmo2", layers, final_norm=norm, weights=weight_rules())


def weight_rules() -> tuple[WeightRule, ...]:
    """The weight rules of olmo2 and exaone4."""
    return module_rules(FRAME) + layer_rules(
        LAYER, _POST_NORMS | ATTENTION | HEAD_NORMS | GATED_MLP
    )
