"""gpt_bigcode (starcoder): gpt2 with one key and value head. Matrices are stored as [out, in]."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.gpt2 import FRAME, LAYER, MLP_AND_OUTPUT, NORMS, gpt2_spec
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "attn.c_attn"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GPTBigCodeForCausalLM from its config."""
    reader = ConfigReader(config)
    weights = (
        module_rules(FRAME)
        + layer_rules(LAYER, NORMS | MLP_AND_OUTPUT)
        + layer_rules(LAYER, _QKV, layout="grouped")
    )
    return gpt2_spec(
        reader,
        "gpt_bigcode",
        multi_query=reader.boolean("multi_query", default=True),
        default_activation="gelu_pytorch_tanh",
        weights=weights,
    )
