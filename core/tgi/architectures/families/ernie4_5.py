"""ernie4_5: llama with an interleaved rotary embedding."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Head, ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Ernie4_5ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("use_bias", default=False), rms_norm(reader, default_eps=1e-5)
    attention = attention_of(
        reader,
        default_kv_heads=2,
        default_head_dim=128,
        default_theta=500_000.0,
        interleaved=True,
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = sequential(attention, mlp_of(reader, bias=bias), norm=norm)
    return decoder_spec(
        reader,
        "ernie4_5",
        (layer,) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
    )
