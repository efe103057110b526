"""qwen3: llama with an RMS norm on each query and key head, and qwen2's windows."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.grammar import ModelSpec
from tgi.architectures.llama import attention_of, decoder_spec
from tgi.architectures.qwen2 import windowed

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Source: Qwen3ForCausalLM."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(reader, default_head_dim=128, qkv_bias=bias, output_bias=bias, head_norm=True)
    return decoder_spec(reader, "qwen3", windowed(reader, attention))
