"""ernie4_5_moe: ernie4_5 with a mixture of experts in a range of layers.

Experts are chosen by their softmax scores plus a correction, in addition to shared experts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import EXPERTS
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    IGNORED,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Head, MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import layer_rules, module_rules

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Ernie4_5_MoeForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("use_bias", default=False), rms_norm(reader, default_eps=1e-5)
    attention = attention_of(
        reader,
        default_kv_heads=4,
        default_theta=500_000.0,
        interleaved=True,
        qkv_bias=bias,
        output_bias=bias,
    )
    mlp, mixture = mlp_of(reader, bias=bias), _mixture(reader, bias)
    layers = tuple(
        sequential(attention, mixture if sparse else mlp, norm=norm)
        for sparse in _sparse_layers(reader, reader.integer("num_hidden_layers"))
    )
    spec = decoder_spec(
        reader,
        "ernie4_5_moe",
        layers,
        final_norm=norm,
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True), bias=bias),
        weights=_weight_rules(),
    )
    # These tensors serve multi-token prediction.
    return msgspec.structs.replace(spec, ignored=(*IGNORED, "*mtp_*"))


def _mixture(reader: ConfigReader, bias: bool) -> MixtureOfExperts:
    size = reader.integer("moe_intermediate_size", default=1536)
    expert = msgspec.structs.replace(mlp_of(reader), intermediate_size=size)
    num_shared = reader.integer("moe_num_shared_experts", default=2, minimum=0)
    shared = msgspec.structs.replace(expert, intermediate_size=size * num_shared, bias=bias)
    return MixtureOfExperts(
        num_experts=reader.integer("moe_num_experts", "num_experts", default=64),
        experts_per_token=reader.integer("moe_k", "num_experts_per_tok", default=6),
        expert=expert,
        router=Router(correction_bias=True),
        shared=shared if num_shared else None,
    )


def _sparse_layers(reader: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    """Return for each layer whether it has the mixture of experts."""
    first = reader.integer("moe_layer_start_index", default=1, minimum=0)
    last = reader.integer("moe_layer_end_index", default=-1, minimum=-1)
    interval = reader.integer("moe_layer_interval", default=1)
    stop = num_layers if last == -1 else last + 1
    return tuple(
        first <= layer < stop and (layer + 1) % interval == 0 for layer in range(num_layers)
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    correction = WeightRule(
        name=f"{LAYER}.mlp.moe_statics.e_score_correction_bias",
        parameters=("decoder.layers.{layer}.moe.router.correction",),
        layout="single_row",
    )
    modules = PRE_NORMS | ATTENTION | GATED_MLP | EXPERTS
    return (*module_rules(FRAME), *layer_rules(LAYER, modules), correction)
