"""granitemoehybrid (Granite 4): granitemoeshared, or granite if the model has no experts.

Only models whose layers all have attention are read. The rotary embedding is optional.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.granite import granite_spec
from tgi.architectures.families.granitemoeshared import MODULES, shared_mixture
from tgi.architectures.families.llama import FRAME, LAYER, mlp_of
from tgi.architectures.generic import generic_spec
from tgi.architectures.spec import GenericSpec, ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_DENSE: Modules = {
    ("mlp.gate", "mlp.up"): "shared_mlp.input_linear",
    "mlp.down": "shared_mlp.output_linear",
}
_ATTENTION = ("attention", "full_attention")
_MAMBA = ("mamba", "linear_attention")


def spec(config: dict[str, Any]) -> ModelSpec | GenericSpec:
    """Build the spec of GraniteMoeHybridForCausalLM from its config.

    The result is a `GenericSpec` if a layer has a Mamba mixer.
    """
    reader = ConfigReader(config)
    kinds = _layer_kinds(reader, reader.integer("num_hidden_layers"))
    if not all(kind in _ATTENTION for kind in kinds):
        return generic_spec(config)
    size = reader.integer("shared_intermediate_size", default=1024)
    has_experts = reader.integer("num_local_experts", default=8, minimum=0) > 0
    dense = msgspec.structs.replace(mlp_of(reader), intermediate_size=size)
    return granite_spec(
        reader,
        "granitemoehybrid",
        shared_mixture(reader, size) if has_experts else dense,
        module_rules(FRAME) + layer_rules(LAYER, MODULES | _DENSE),
        is_rotary=reader.has("position_embedding_type")
        and reader.choice("position_embedding_type", table={"rope": True, "nope": False}),
    )


def _layer_kinds(reader: ConfigReader, num_layers: int) -> tuple[str, ...]:
    """Without a list of kinds, every layer has a Mamba mixer."""
    for name in ("layer_types", "layers_block_type"):
        kinds = reader.strings(name, _ATTENTION + _MAMBA, num_layers)
        if kinds is not None:
            return kinds
    return ("mamba",) * num_layers
