"""seed_oss: llama with biases on query, key and value, and optional biases elsewhere."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of SeedOssForCausalLM from its config."""
    reader = ConfigReader(config)
    attention = attention_of(
        reader,
        default_kv_heads=8,
        default_head_dim=128,
        qkv_bias=reader.boolean("attention_bias", default=True),
        output_bias=reader.boolean("attention_out_bias", default=False),
    )
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    layer = sequential(attention, mlp, norm=rms_norm(reader))
    return decoder_spec(reader, "seed_oss", (layer,) * reader.integer("num_hidden_layers"))
