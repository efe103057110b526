"""hunyuan_v1_dense: llama with norms on each query and key head after the rotary embedding."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Attention, ModelSpec, Norm
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["MODULES", "hunyuan_attention", "spec"]

MODULES: Modules = (
    PRE_NORMS
    | ATTENTION
    | {
        "attention.q_norm": "self_attn.query_layernorm",
        "attention.k_norm": "self_attn.key_layernorm",
    }
)
"""The modules that hunyuan_v1_dense and hunyuan_v1_moe have in common."""

_MAX_ALPHA = 1_000_000  # published models have 1000


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of HunYuanDenseV1ForCausalLM from its config."""
    reader = ConfigReader(config)
    norm = rms_norm(reader, default_eps=1e-5)
    layer = sequential(hunyuan_attention(config, norm), mlp_of(reader), norm=norm)
    return decoder_spec(
        reader,
        "hunyuan_v1_dense",
        (layer,) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        weights=module_rules(FRAME) + layer_rules(LAYER, MODULES | GATED_MLP),
    )


def hunyuan_attention(config: dict[str, Any], norm: Norm) -> Attention:
    """Read the attention of hunyuan_v1_dense and hunyuan_v1_moe.

    The dynamic scaling of published models has the parameter `alpha`, which increases the base
    independently of the sequence's length.
    """
    reader = ConfigReader(config)
    section = next((name for name in ("rope_scaling", "rope_parameters") if reader.has(name)), None)
    scaling = ConfigReader({}) if section is None else reader.section(section)
    alpha = scaling.number("alpha", default=0.0)
    if not 0 <= alpha <= _MAX_ALPHA:
        raise scaling.error("alpha", f"must be at least 0 and at most {_MAX_ALPHA}")
    if section is not None and alpha:
        config = config | {section: config[section] | {"rope_type": "default", "type": "default"}}
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(ConfigReader(config), qkv_bias=bias, output_bias=bias, head_norm=norm)
    rope, dim = attention.rope, attention.head_dim
    if rope is not None and alpha:
        if dim <= 2:
            raise reader.error("head_dim", "must be greater than 2")
        rope = msgspec.structs.replace(rope, theta=rope.theta * alpha ** (dim / (dim - 2)))
    return msgspec.structs.replace(attention, rope=rope, qk_norm_after_rope=True)
