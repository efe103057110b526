"""starcoder2: rotary attention with a window, layer norms, a plain MLP, and biases."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Head, ModelSpec, Norm
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_MLP: Modules = {"mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Starcoder2ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("use_bias", default=True)
    norm = Norm(kind="layer", eps=reader.number("norm_epsilon", default=1e-5), bias=True)
    attention = attention_of(reader, default_kv_heads=2, qkv_bias=bias, output_bias=bias)
    attention = msgspec.structs.replace(
        attention, window=reader.optional_integer("sliding_window", default=None)
    )
    mlp = mlp_of(reader, default_activation="gelu_pytorch_tanh", gated=False, bias=bias)
    return decoder_spec(
        reader,
        "starcoder2",
        (sequential(attention, mlp, norm=norm),) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | ATTENTION | _MLP),
    )
