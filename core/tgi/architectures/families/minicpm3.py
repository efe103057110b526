"""minicpm3: minicpm with deepseek_v2's latent attention."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import LATENT_ATTENTION, latent_attention
from tgi.architectures.families.llama import (
    FRAME,
    GATED_MLP,
    LAYER,
    PRE_NORMS,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.families.minicpm import minicpm_head, residual_scale
from tgi.architectures.spec import Block, Branch, Embedding, Layer, ModelSpec
from tgi.architectures.weight_names import layer_rules, module_rules

__all__ = ["spec"]

_DEFAULTS = {
    "q_lora_rank": 768,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
}
"""Defaults of MiniCPM3Config."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MiniCPM3ForCausalLM from its config."""
    reader = ConfigReader(config)
    hidden, num_heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    if not reader.has("v_head_dim"):
        v_head_dim = reader.divided("hidden_size", hidden, "num_attention_heads", num_heads)
        config = config | {"v_head_dim": v_head_dim}
    reader = ConfigReader(_DEFAULTS | config)
    norm, scale = rms_norm(reader, default_eps=1e-5), residual_scale(reader, 1.4)
    mixers = (
        latent_attention(reader, interleaved=False),
        mlp_of(reader, bias=reader.boolean("mlp_bias", default=False)),
    )
    layer = Layer(
        blocks=tuple(
            Block(branches=(Branch(mixer=mixer, norm=norm),), residual_scale=scale)
            for mixer in mixers
        )
    )
    modules = PRE_NORMS | LATENT_ATTENTION | GATED_MLP
    return decoder_spec(
        reader,
        "minicpm3",
        (layer,) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        embedding=Embedding(scale=reader.number("scale_emb", default=12.0)),
        head=minicpm_head(reader, 256),
        weights=module_rules(FRAME) + layer_rules(LAYER, modules),
    )
