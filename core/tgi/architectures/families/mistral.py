"""mistral: llama with a sliding window on every layer."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Source: MistralForCausalLM. An absent `sliding_window` means 4096, a null one none."""
    reader = ConfigReader(config)
    window = reader.optional_integer("sliding_window", default=4096)
    attention = msgspec.structs.replace(attention_of(reader, default_kv_heads=8), window=window)
    layer = sequential(attention, mlp_of(reader), norm=rms_norm(reader))
    return decoder_spec(reader, "mistral", (layer,) * reader.integer("num_hidden_layers"))
