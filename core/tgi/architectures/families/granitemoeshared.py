"""granitemoeshared: granitemoe with an additional MLP that every token uses."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.granite import granite_spec
from tgi.architectures.families.granitemoe import EXPERTS, mixture_of
from tgi.architectures.families.llama import ATTENTION, FRAME, LAYER, PRE_NORMS, mlp_of
from tgi.architectures.spec import MixtureOfExperts, ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["MODULES", "shared_mixture", "spec"]

MODULES: Modules = (
    PRE_NORMS
    | ATTENTION
    | EXPERTS
    | {
        ("moe.shared.gate", "moe.shared.up"): "shared_mlp.input_linear",
        "moe.shared.down": "shared_mlp.output_linear",
    }
)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GraniteMoeSharedForCausalLM from its config."""
    reader = ConfigReader(config)
    size = reader.integer("shared_intermediate_size", default=0, minimum=0)
    weights = module_rules(FRAME) + layer_rules(LAYER, MODULES)
    return granite_spec(reader, "granitemoeshared", shared_mixture(reader, size), weights)


def shared_mixture(reader: ConfigReader, shared_size: int) -> MixtureOfExperts:
    """Read granitemoe's mixture of experts with a shared MLP of the given inner size. A size of 0
    means that there is no shared MLP.
    """
    shared = msgspec.structs.replace(mlp_of(reader), intermediate_size=shared_size)
    return msgspec.structs.replace(mixture_of(reader), shared=shared if shared_size else None)
