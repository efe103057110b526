"""gemma2: gemma with norms before and after each mixer, and soft caps.

Every other layer has a window.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.gemma import embedding_of
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    HEAD_NORMS,
    LAYER,
    attention_of,
    decoder_spec,
    rms_norm,
)
from tgi.architectures.layers import sequential, sliding_layers
from tgi.architectures.spec import MLP, Attention, Head, ModelSpec, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["gemma2_spec", "spec", "weight_rules"]

_NORMS: Modules = {
    "attention.norm": "input_layernorm",
    "attention.post_norm": "post_attention_layernorm",
    "mlp.norm": "pre_feedforward_layernorm",
    "mlp.post_norm": "post_feedforward_layernorm",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Gemma2ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    full = msgspec.structs.replace(
        attention_of(
            reader,
            default_heads=8,
            default_kv_heads=4,
            default_head_dim=256,
            qkv_bias=bias,
            output_bias=bias,
        ),
        scale=reader.number("query_pre_attn_scalar", default=256.0) ** -0.5,
        softcap=reader.optional_number("attn_logit_softcapping", default=50.0),
    )
    sliding = msgspec.structs.replace(
        full, window=reader.optional_integer("sliding_window", default=4096)
    )
    slides = sliding_layers(reader, reader.integer("num_hidden_layers", default=26), pattern=2)
    head_cap = reader.optional_number("final_logit_softcapping", default=30.0)
    return gemma2_spec(
        reader, "gemma2", tuple(sliding if slide else full for slide in slides), head_cap
    )


def gemma2_spec(
    reader: ConfigReader, model_type: str, attentions: tuple[Attention, ...], head_cap: float | None
) -> ModelSpec:
    """Build the parts that gemma2 and gemma3 have in common."""
    norm = rms_norm(reader, unit_offset=True)
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size", default=9216),
        activation=reader.activation("hidden_activation", default="gelu_pytorch_tanh"),
    )
    return decoder_spec(
        reader,
        model_type,
        tuple(sequential(attention, mlp, norm=norm, post_norm=norm) for attention in attentions),
        final_norm=norm,
        embedding=embedding_of(reader),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True), softcap=head_cap),
        weights=weight_rules(),
    )


def weight_rules() -> tuple[WeightRule, ...]:
    """The weight rules of gemma2 and gemma3."""
    return module_rules(FRAME) + layer_rules(LAYER, _NORMS | ATTENTION | HEAD_NORMS | GATED_MLP)
