"""mistral: llama with a sliding window in every layer."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MistralForCausalLM from its config.

    An absent `sliding_window` means 4096, and null means no window.
    """
    reader = ConfigReader(config)
    window = reader.optional_integer("sliding_window", default=4096)
    attention = msgspec.structs.replace(attention_of(reader, default_kv_heads=8), window=window)
    layer = sequential(attention, mlp_of(reader), norm=rms_norm(reader))
    return decoder_spec(reader, "mistral", (layer,) * reader.integer("num_hidden_layers"))
