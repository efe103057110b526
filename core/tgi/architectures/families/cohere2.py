"""cohere2 (Command R7B, Command A): cohere with sliding windows.

Every fourth layer attends to the full context and has no rotary embedding.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.cohere import cohere_spec
from tgi.architectures.families.llama import attention_of
from tgi.architectures.layers import sliding_layers
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Cohere2ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    rotary = attention_of(reader, interleaved=True, qkv_bias=bias, output_bias=bias)
    full = msgspec.structs.replace(rotary, rope=None)
    sliding = msgspec.structs.replace(rotary, window=reader.integer("sliding_window", default=4096))
    slides = sliding_layers(reader, reader.integer("num_hidden_layers"), pattern=4)
    return cohere_spec(reader, "cohere2", tuple(sliding if slide else full for slide in slides))
