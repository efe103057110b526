"""codegen: gptj with a fused matrix.

The matrix consists of four blocks. Each block has the rows of a quarter of the query heads, value
heads and key heads.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families import gptj
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "h.{layer}"
_FRAME: Modules = {"embedding": "wte", "decoder.final_norm": "ln_f", "head": "lm_head"}
_MODULES: Modules = {
    "block0.norm": "ln_1",
    "attention.o": "attn.out_proj",
    "mlp.up": "mlp.fc_in",
    "mlp.down": "mlp.fc_out",
}
_QVK: Modules = {("attention.q", "attention.v", "attention.k"): "attn.qkv_proj"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of CodeGenForCausalLM from its config."""
    reader = ConfigReader(config)
    if reader.integer("n_head", "num_attention_heads") % 4:
        raise reader.error("n_head", "must be divisible by 4")
    return msgspec.structs.replace(
        gptj.spec(config),
        model_type="codegen",
        weights=module_rules(_FRAME)
        + layer_rules(_LAYER, _MODULES)
        + layer_rules(_LAYER, _QVK, layout="quarters"),
        ignored=("*.attn.causal_mask",),  # saved by old versions
    )
