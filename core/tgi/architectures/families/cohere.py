"""cohere (Command R): attention and MLP in parallel after one layer norm without bias.

The rotary embedding is interleaved, and the logits are scaled.
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
)
from tgi.architectures.layers import parallel
from tgi.architectures.spec import Attention, Head, ModelSpec, Norm
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["NORMS", "cohere_spec", "norm_of", "spec"]

NORMS: Modules = {"block0.norm": "input_layernorm"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of CohereForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader, default_theta=500_000.0, interleaved=True, qkv_bias=bias, output_bias=bias
    )
    if reader.boolean("use_qk_norm", default=False):
        norm = norm_of(reader)
        attention = msgspec.structs.replace(
            attention, q_norm=norm, k_norm=norm, qk_norm_over="each_head"
        )
    return cohere_spec(reader, "cohere", (attention,) * reader.integer("num_hidden_layers"))


def cohere_spec(
    reader: ConfigReader, model_type: str, attentions: tuple[Attention, ...]
) -> ModelSpec:
    """Build the parts that cohere and cohere2 have in common."""
    norm, mlp = norm_of(reader), mlp_of(reader)
    return decoder_spec(
        reader,
        model_type,
        tuple(parallel(attention, mlp, norm) for attention in attentions),
        final_norm=norm,
        head=Head(
            tied=reader.boolean("tie_word_embeddings", default=True),
            scale=reader.number("logit_scale", default=0.0625),
        ),
        weights=module_rules(FRAME)
        + layer_rules(LAYER, NORMS | ATTENTION | HEAD_NORMS | GATED_MLP),
    )


def norm_of(reader: ConfigReader) -> Norm:
    """A layer norm with weight but without bias."""
    return Norm(kind="layer", eps=reader.number("layer_norm_eps", default=1e-5))
