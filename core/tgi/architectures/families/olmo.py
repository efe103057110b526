"""olmo: llama with layer norms without weights, and clipped queries, keys and values."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec, Norm

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of OlmoForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias)
    attention = msgspec.structs.replace(
        attention, clip_qkv=reader.optional_number("clip_qkv", default=None)
    )
    norm = Norm(kind="layer", eps=1e-5, weight=False)
    layers = (sequential(attention, mlp_of(reader), norm=norm),) * reader.integer(
        "num_hidden_layers"
    )
    return decoder_spec(reader, "olmo", layers, final_norm=norm)
