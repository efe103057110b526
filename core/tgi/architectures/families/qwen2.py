"""qwen2: llama with query, key and value biases. The upper layers may have a window."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Attention, ModelSpec

__all__ = ["spec", "windowed"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Qwen2ForCausalLM from its config."""
    reader = ConfigReader(config)
    mlp, norm = mlp_of(reader), rms_norm(reader)
    attentions = windowed(reader, attention_of(reader, qkv_bias=True))
    return decoder_spec(
        reader, "qwen2", tuple(sequential(attention, mlp, norm=norm) for attention in attentions)
    )


def windowed(reader: ConfigReader, attention: Attention) -> tuple[Attention, ...]:
    """One attention per layer, with a window in some layers if `use_sliding_window` is set.

    These are the layers that `layer_types` names, otherwise the layers from `max_window_layers` on.
    """
    layers = reader.integer("num_hidden_layers")
    if not reader.boolean("use_sliding_window", default=False) or reader.is_null("sliding_window"):
        return (attention,) * layers
    sliding = msgspec.structs.replace(
        attention, window=reader.integer("sliding_window", default=4096)
    )
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), layers)
    if kinds is None:
        first = reader.integer("max_window_layers", default=28, minimum=0)
        kinds = tuple(
            "sliding_attention" if layer >= first else "full_attention" for layer in range(layers)
        )
    return tuple(sliding if kind == "sliding_attention" else attention for kind in kinds)
