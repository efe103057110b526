"""minimax_m2: mixtral with norms over all query heads and all key heads, and a sigmoid router."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    HEAD_NORMS,
    IGNORED,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.families.mixtral import weight_rules as mixtral_rules
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import layer_rules

__all__ = ["spec"]

_CORRECTION = WeightRule(
    name=f"{LAYER}.block_sparse_moe.e_score_correction_bias",
    parameters=("decoder.layers.{layer}.moe.router.correction",),
)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MiniMaxM2ForCausalLM from its config."""
    reader, norm = ConfigReader(config), rms_norm(ConfigReader(config))
    attention = msgspec.structs.replace(
        attention_of(
            reader,
            default_kv_heads=8,
            default_head_dim=128,
            default_theta=5_000_000.0,
            default_partial=_rotary_share(reader),
            head_norm=norm,
        ),
        qk_norm_over="all",
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=256),
        experts_per_token=reader.integer("num_experts_per_tok", default=8),
        expert=mlp_of(reader),
        router=Router(
            score=reader.choice("scoring_func", table={"sigmoid": "sigmoid"}, default="sigmoid"),
            correction_bias=True,
        ),
    )
    layers = (sequential(attention, mixture, norm=norm),) * reader.integer("num_hidden_layers")
    weights = (*mixtral_rules(), *layer_rules(LAYER, HEAD_NORMS), _CORRECTION)
    result = decoder_spec(reader, "minimax_m2", layers, weights=weights)
    # The tensors of the module `mtp` serve multi-token prediction.
    return msgspec.structs.replace(result, ignored=(*IGNORED, "*mtp.*"))


def _rotary_share(reader: ConfigReader) -> float:
    """Return the part of each head that is rotated. Published configs have its size."""
    head_dim = reader.integer("head_dim", default=128)
    return reader.integer("rotary_dim", default=head_dim) / head_dim
