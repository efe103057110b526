"""lfm2_moe: lfm2 with a mixture of experts in all layers except the first ones."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.lfm2 import lfm2_spec
from tgi.architectures.families.llama import LAYER
from tgi.architectures.layers import FeedForward
from tgi.architectures.spec import MLP, MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules

__all__ = ["spec"]

_EXPERTS: Modules = {
    "moe.router": "feed_forward.gate",
    "moe.experts.gate": "feed_forward.experts.{expert}.w1",
    "moe.experts.up": "feed_forward.experts.{expert}.w3",
    "moe.experts.down": "feed_forward.experts.{expert}.w2",
}
_CORRECTION = WeightRule(
    name=f"{LAYER}.feed_forward.expert_bias",
    parameters=("decoder.layers.{layer}.moe.router.correction",),
)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Lfm2MoeForCausalLM from its config."""
    reader = ConfigReader(config)
    num_dense = reader.integer("num_dense_layers", default=2, minimum=0)
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size", default=7168), activation="silu"
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_experts", default=32),
        experts_per_token=reader.integer("num_experts_per_tok", default=4),
        expert=MLP(
            intermediate_size=reader.integer("moe_intermediate_size", default=1792),
            activation="silu",
        ),
        router=Router(
            score="sigmoid",
            normalize=reader.boolean("norm_topk_prob", default=True),
            scale=reader.number("routed_scaling_factor", default=1.0),
            correction_bias=reader.boolean("use_expert_bias", default=True),
        ),
    )
    feed_forward: tuple[FeedForward, ...] = tuple(
        mlp if layer < num_dense else mixture
        for layer in range(reader.integer("num_hidden_layers"))
    )
    return lfm2_spec(reader, "lfm2_moe", feed_forward, (*layer_rules(LAYER, _EXPERTS), _CORRECTION))
