"""helium: llama with an interleaved rotary embedding."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of HeliumForCausalLM from its config."""
    reader = ConfigReader(config)
    attention = attention_of(
        reader,
        default_head_dim=128,
        default_theta=100_000.0,
        interleaved=True,
        qkv_bias=reader.boolean("attention_bias", default=False),
    )
    norm = rms_norm(reader, default_eps=1e-8)
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    layer = sequential(attention, mlp, norm=norm)
    return decoder_spec(
        reader, "helium", (layer,) * reader.integer("num_hidden_layers"), final_norm=norm
    )
