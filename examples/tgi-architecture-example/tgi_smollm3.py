"""The family smollm3: Llama, but every fourth layer has no rotary embedding."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures import Attention, Head, ModelSpec
from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """The model spec for a parsed `config.json`. Source: `SmolLM3ForCausalLM` of transformers."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader)
    rotary = attention_of(reader, default_kv_heads=4, qkv_bias=bias, output_bias=bias)
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    return decoder_spec(
        reader,
        "smollm3",
        tuple(sequential(attention, mlp, norm=norm) for attention in _attentions(reader, rotary)),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
    )


def _attentions(reader: ConfigReader, rotary: Attention) -> tuple[Attention, ...]:
    """The attention of each layer. In spite of its name, `no_rope_layers` contains 1 for a layer
    with rotary embedding and 0 for a layer without.
    """
    if reader.boolean("use_sliding_window", default=False):
        raise reader.error("use_sliding_window", "must be false")
    num_layers, interval = (
        reader.integer("num_hidden_layers"),
        reader.integer("no_rope_layer_interval", default=4),
    )
    rotates = reader.integers("no_rope_layers") or tuple(
        int((layer + 1) % interval != 0) for layer in range(num_layers)
    )
    if len(rotates) != num_layers:
        raise reader.error("no_rope_layers", f"must have {num_layers} entries")
    return tuple(rotary if flag else msgspec.structs.replace(rotary, rope=None) for flag in rotates)
