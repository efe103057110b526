"""granitemoe: granite with a mixture of experts. The softmax is over the chosen experts only."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.granite import granite_spec
from tgi.architectures.families.llama import ATTENTION, FRAME, LAYER, PRE_NORMS, mlp_of
from tgi.architectures.spec import MixtureOfExperts, ModelSpec, Router, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["EXPERTS", "mixture_of", "spec"]

EXPERTS: Modules = {
    "moe.router": "block_sparse_moe.router.layer",
    ("moe.experts.gate", "moe.experts.up"): "block_sparse_moe.input_linear",
    "moe.experts.down": "block_sparse_moe.output_linear",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GraniteMoeForCausalLM from its config."""
    reader = ConfigReader(config)
    return granite_spec(reader, "granitemoe", mixture_of(reader), _weight_rules())


def mixture_of(reader: ConfigReader) -> MixtureOfExperts:
    """Read the mixture of experts of granitemoe and its successors."""
    return MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=8),
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=mlp_of(reader),
        router=Router(top_k_first=True, normalize=False),
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    return module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | ATTENTION | EXPERTS)
