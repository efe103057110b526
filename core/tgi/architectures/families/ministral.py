"""ministral: mistral with a sliding window in some layers."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MinistralForCausalLM from its config.

    Without `layer_types`, every layer has the window.
    """
    reader, norm = ConfigReader(config), rms_norm(ConfigReader(config))
    num_layers = reader.integer("num_hidden_layers")
    full = attention_of(reader, default_kv_heads=8)
    sliding = msgspec.structs.replace(
        full, window=reader.optional_integer("sliding_window", default=4096)
    )
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), num_layers)
    layers = tuple(
        sequential(full if kind == "full_attention" else sliding, mlp_of(reader), norm=norm)
        for kind in kinds or ("sliding_attention",) * num_layers
    )
    return decoder_spec(reader, "ministral", layers)
