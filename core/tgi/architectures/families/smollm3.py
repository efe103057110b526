"""smollm3: llama, but every fourth layer has no rotary embedding.

The layers without rotary embedding may have a sliding window.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import rotary_layers, sequential
from tgi.architectures.spec import Attention, Head, ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of SmolLM3ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader)
    rotary = attention_of(
        reader,
        default_kv_heads=4,
        default_theta=2_000_000.0,
        qkv_bias=bias,
        output_bias=bias,
    )
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    return decoder_spec(
        reader,
        "smollm3",
        tuple(sequential(attention, mlp, norm=norm) for attention in _attentions(reader, rotary)),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
    )


def _attentions(reader: ConfigReader, rotary: Attention) -> tuple[Attention, ...]:
    """The attention of each layer."""
    num_layers = reader.integer("num_hidden_layers")
    rotates = rotary_layers(reader, num_layers)
    window = reader.optional_integer("sliding_window", default=None)
    if not reader.boolean("use_sliding_window", default=False):
        window = None
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), num_layers)
    slides = (
        tuple(not flag for flag in rotates)
        if kinds is None
        else tuple(kind == "sliding_attention" for kind in kinds)
    )
    return tuple(
        msgspec.structs.replace(
            rotary, rope=rotary.rope if flag else None, window=window if slide else None
        )
        for flag, slide in zip(rotates, slides, strict=True)
    )
