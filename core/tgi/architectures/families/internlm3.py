"""internlm3: llama with its own names for the biases."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of InternLM3ForCausalLM from its config.

    transformers 5 names `qkv_bias` `attention_bias`, and `bias` `mlp_bias`.
    """
    reader, norm = ConfigReader(config), rms_norm(ConfigReader(config), default_eps=1e-5)
    bias = reader.boolean("bias", "mlp_bias", default=False)
    attention = attention_of(
        reader,
        default_kv_heads=2,
        default_head_dim=128,
        qkv_bias=reader.boolean("qkv_bias", "attention_bias", default=False),
        output_bias=bias,
    )
    layer = sequential(attention, mlp_of(reader, bias=bias), norm=norm)
    return decoder_spec(
        reader, "internlm3", (layer,) * reader.integer("num_hidden_layers"), final_norm=norm
    )
