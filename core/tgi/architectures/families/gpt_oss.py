"""gpt_oss: attention sinks, a window in every other layer, YaRN, and a mixture of experts.

The experts have biases and a clamped gate.
"""

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
    rms_norm,
)
from tgi.architectures.layers import sequential, sliding_layers
from tgi.architectures.spec import MLP, MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_ROUTER: Modules = {"moe.router": "mlp.router"}
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""The rope parameters of a config that has none."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GptOssForCausalLM from its config."""
    reader = ConfigReader(config)
    _check_activation(reader)
    if not (reader.has("rope_parameters") or reader.has("rope_scaling")):
        reader = ConfigReader(config | {"rope_scaling": _YARN})
    bias = reader.boolean("attention_bias", default=True)
    plain = attention_of(
        reader,
        default_kv_heads=8,
        default_head_dim=64,
        default_theta=150_000.0,
        qkv_bias=bias,
        output_bias=bias,
    )
    full = msgspec.structs.replace(plain, sinks=True)
    sliding = msgspec.structs.replace(
        full, window=reader.optional_integer("sliding_window", default=128)
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=128),
        experts_per_token=reader.integer("num_experts_per_tok", "experts_per_token", default=4),
        expert=MLP(
            intermediate_size=reader.integer("intermediate_size"),
            activation="silu_clamped",
            bias=True,
        ),
        router=Router(top_k_first=True, normalize=False, bias=True),
    )
    norm = rms_norm(reader, default_eps=1e-5)
    slides = sliding_layers(reader, reader.integer("num_hidden_layers"), pattern=2)
    layers = tuple(sequential(sliding if slide else full, mixture, norm=norm) for slide in slides)
    return decoder_spec(reader, "gpt_oss", layers, final_norm=norm, weights=_weight_rules())


def _check_activation(reader: ConfigReader) -> None:
    if reader.number("swiglu_limit", default=7.0) != 7.0:
        raise reader.error("swiglu_limit", "must be 7.0, the limit of the published models")
    if reader.number("swiglu_alpha", default=1.702) != 1.702:
        raise reader.error("swiglu_alpha", "must be 1.702, the rate of the published models")


def _weight_rules() -> tuple[WeightRule, ...]:
    experts, stored = "decoder.layers.{layer}.moe.experts", f"{LAYER}.mlp.experts"
    rules = [
        WeightRule(
            name=f"{LAYER}.self_attn.sinks", parameters=("decoder.layers.{layer}.attention.sinks",)
        )
    ]
    for kind, suffix in {"weight": "", "bias": "_bias"}.items():
        both, is_matrix = (f"{experts}.gate.{kind}", f"{experts}.up.{kind}"), kind == "weight"
        rules += [
            WeightRule(
                name=f"{stored}.gate_up_proj{suffix}",
                parameters=both,
                layout="alternating",
                transposed=is_matrix,
            ),
            WeightRule(
                name=f"{stored}.down_proj{suffix}",
                parameters=(f"{experts}.down.{kind}",),
                transposed=is_matrix,
            ),
        ]
    return module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | ATTENTION | _ROUTER) + tuple(rules)
