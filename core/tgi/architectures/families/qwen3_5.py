"""qwen3_5 and qwen3_5_moe: the text models of Qwen 3.5, with the layers of qwen3_next.

The feed-forward mixer of each layer is an MLP, or a mixture of experts with a shared expert.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import IGNORED, LAYER, decoder_spec, mlp_of, rms_norm
from tgi.architectures.families.qwen3_next import gated_rules, hybrid_layers, mixture_of
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules, layer_rules, stacked_expert_rules

__all__ = ["spec"]

_LINEAR_ATTENTION: Modules = {
    tuple(f"linear_attention.{part}" for part in "qkv"): "linear_attn.in_proj_qkv",
    "linear_attention.gate": "linear_attn.in_proj_z",
    "linear_attention.beta": "linear_attn.in_proj_b",
    "linear_attention.decay": "linear_attn.in_proj_a",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Qwen3_5ForCausalLM or Qwen3_5MoeForCausalLM from its config."""
    reader = ConfigReader(config)
    num_layers, norm = reader.integer("num_hidden_layers"), rms_norm(reader, unit_offset=True)
    if config["model_type"] == "qwen3_5_moe_text":
        mixture = mixture_of(reader, num_experts=256, experts_per_token=8)
        layers = hybrid_layers(reader, (mixture,) * num_layers, default_kv_heads=2)
    else:
        layers = hybrid_layers(reader, (mlp_of(reader),) * num_layers, default_kv_heads=4)
    weights = (
        *gated_rules(),
        *layer_rules(LAYER, _LINEAR_ATTENTION),
        # The published checkpoints store all experts of a layer in two tensors. Checkpoints that
        # transformers 5 saves have tensors for each expert.
        *stacked_expert_rules(f"{LAYER}.mlp.experts"),
    )
    result = decoder_spec(reader, config["model_type"], layers, final_norm=norm, weights=weights)
    # The tensors `mtp.*` are layers for multi-token prediction.
    return msgspec.structs.replace(result, ignored=(*IGNORED, "mtp.*"))
