"""phi3: llama with fused matrices. Long-context models have LongRoPE.

In some models the rotary embedding rotates part of each head.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    FRAME,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_MODULES: Modules = {
    ("attention.q", "attention.k", "attention.v"): "self_attn.qkv_proj",
    "attention.o": "self_attn.o_proj",
    ("mlp.gate", "mlp.up"): "mlp.gate_up_proj",
    "mlp.down": "mlp.down_proj",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Phi3ForCausalLM from its config."""
    reader = ConfigReader(config)
    attention = msgspec.structs.replace(
        attention_of(reader), window=reader.optional_integer("sliding_window", default=None)
    )
    norm = rms_norm(reader, default_eps=1e-5)
    layers = (sequential(attention, mlp_of(reader), norm=norm),) * reader.integer(
        "num_hidden_layers"
    )
    weights = module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | _MODULES)
    return decoder_spec(reader, "phi3", layers, final_norm=norm, weights=weights)
