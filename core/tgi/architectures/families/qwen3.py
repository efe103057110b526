"""qwen3: llama with an RMS norm on each query and key head, and qwen2's windows."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.families.qwen2 import windowed
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Qwen3ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    mlp, norm = mlp_of(reader), rms_norm(reader)
    attention = attention_of(
        reader, default_head_dim=128, qkv_bias=bias, output_bias=bias, head_norm=norm
    )
    layers = tuple(sequential(item, mlp, norm=norm) for item in windowed(reader, attention))
    return decoder_spec(reader, "qwen3", layers)
