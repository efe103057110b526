"""The family cwm: Llama, but three of four layers have a sliding window."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures import Attention, ModelSpec
from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential

__all__ = ["spec"]

_THETA = 1_000_000.0


def spec(config: dict[str, Any]) -> ModelSpec:
    """The model spec for a parsed `config.json`. Source: `CwmForCausalLM` of transformers."""
    reader = ConfigReader(config)
    norm = rms_norm(reader, default_eps=1e-5)
    full = attention_of(reader, default_kv_heads=8, default_head_dim=128, default_theta=_THETA)
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    return decoder_spec(
        reader,
        "cwm",
        tuple(sequential(attention, mlp, norm=norm) for attention in _attentions(reader, full)),
        final_norm=norm,
    )


def _attentions(reader: ConfigReader, full: Attention) -> tuple[Attention, ...]:
    """The attention of each layer. Without `layer_types`, the first of every four layers has no
    window.
    """
    num_layers, window = (
        reader.integer("num_hidden_layers"),
        reader.integer("sliding_window", default=8192),
    )
    sliding = msgspec.structs.replace(full, window=window)
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), num_layers)
    if kinds is None:
        return tuple(sliding if layer % 4 else full for layer in range(num_layers))
    return tuple(sliding if kind == "sliding_attention" else full for kind in kinds)
