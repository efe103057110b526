"""glm (GLM-4-9B): llama with an interleaved rotary embedding of half of each head.

Query, key and value have biases, and gate and up are one matrix.
"""

from __future__ import annotations

from typing import Any

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
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["glm_spec", "spec"]

_MLP: Modules = {("mlp.gate", "mlp.up"): "mlp.gate_up_proj", "mlp.down": "mlp.down_proj"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GlmForCausalLM from its config."""
    return glm_spec(ConfigReader(config), "glm")


def glm_spec(reader: ConfigReader, model_type: str, post_norms: Modules | None = None) -> ModelSpec:
    """Build the parts that glm and glm4 have in common.

    `post_norms` are the names of the norms after the mixers, or None if there are no such norms.
    """
    attention = attention_of(
        reader,
        default_kv_heads=2,
        default_head_dim=128,
        default_partial=0.5,
        interleaved=True,
        qkv_bias=reader.boolean("attention_bias", default=True),
    )
    norm = rms_norm(reader, default_eps=1.5625e-07)
    layer = sequential(
        attention, mlp_of(reader), norm=norm, post_norm=None if post_norms is None else norm
    )
    return decoder_spec(
        reader,
        model_type,
        (layer,) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        weights=module_rules(FRAME)
        + layer_rules(LAYER, PRE_NORMS | ATTENTION | _MLP | (post_norms or {})),
    )
