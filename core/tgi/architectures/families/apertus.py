"""apertus: llama with norms on each query and key head.

The MLP has no gate. Its activation, xIELU, has two learned values per layer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    HEAD_NORMS,
    IGNORED,
    LAYER,
    attention_of,
    decoder_spec,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MLP, Activation, ModelSpec, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_NORMS: Modules = {"attention.norm": "attention_layernorm", "mlp.norm": "feedforward_layernorm"}
_ACTIVATIONS: dict[str, Activation] = {"xielu": "xielu"}
_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 12_000_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
"""The default of ApertusConfig."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of ApertusForCausalLM from its config."""
    has_rope = config.get("rope_parameters") or config.get("rope_scaling")
    reader = ConfigReader(config if has_rope else config | {"rope_parameters": _ROPE})
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader, default_eps=1e-5)
    attention = attention_of(
        reader, default_theta=12_000_000.0, qkv_bias=bias, output_bias=bias, head_norm=norm
    )
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size"),
        activation=reader.choice("hidden_act", table=_ACTIVATIONS, default="xielu"),
        gated=False,
    )
    layers = (sequential(attention, mlp, norm=norm),) * reader.integer("num_hidden_layers")
    spec = decoder_spec(reader, "apertus", layers, final_norm=norm, weights=_weight_rules())
    # These tensors contain the constants of xIELU, which have the same values in all models.
    return msgspec.structs.replace(spec, ignored=(*IGNORED, "*.act_fn.beta", "*.act_fn.eps"))


def _weight_rules() -> tuple[WeightRule, ...]:
    alphas = tuple(
        WeightRule(
            name=f"{LAYER}.mlp.act_fn.{name}", parameters=(f"decoder.layers.{{layer}}.mlp.{name}",)
        )
        for name in ("alpha_p", "alpha_n")
    )
    modules = _NORMS | ATTENTION | HEAD_NORMS | GATED_MLP
    return (*module_rules(FRAME), *layer_rules(LAYER, modules), *alphas)
