"""exaone_moe (K-EXAONE): exaone4's attention with norms before the mixers.

Most layers have deepseek_v3's mixture of experts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import EXPERTS
from tgi.architectures.families.exaone4 import windowed
from tgi.architectures.families.glm4_moe import mixture_of
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    HEAD_NORMS,
    IGNORED,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import dense_layers, sequential
from tgi.architectures.spec import ModelSpec, WeightRule
from tgi.architectures.weight_names import layer_rules, module_rules

__all__ = ["spec"]

_CORRECTION = WeightRule(
    name=f"{LAYER}.mlp.e_score_correction_bias",
    parameters=("decoder.layers.{layer}.moe.router.correction",),
)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of ExaoneMoeForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, num_layers = rms_norm(reader, default_eps=1e-5), reader.integer("num_hidden_layers")
    attentions = windowed(reader, attention_of(reader, default_kv_heads=32, head_norm=norm))
    mixture = mixture_of(reader, num_experts=64)
    layers = tuple(
        sequential(attention, mlp_of(reader) if dense else mixture, norm=norm)
        for attention, dense in zip(
            attentions, dense_layers(reader, num_layers, default=1), strict=True
        )
    )
    modules = PRE_NORMS | ATTENTION | HEAD_NORMS | GATED_MLP | EXPERTS
    weights = (*module_rules(FRAME), *layer_rules(LAYER, modules), _CORRECTION)
    spec = decoder_spec(reader, "exaone_moe", layers, final_norm=norm, weights=weights)
    # These tensors serve multi-token prediction.
    return msgspec.structs.replace(spec, ignored=(*IGNORED, "mtp.*"))
