"""olmoe: llama with a mixture of experts.

There is one norm over all query heads, and one over all key heads.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.families.qwen2_moe import weight_rules
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MixtureOfExperts, ModelSpec, Router

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of OlmoeForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader, default_eps=1e-5)
    attention = msgspec.structs.replace(
        attention_of(reader, qkv_bias=bias, output_bias=bias, head_norm=norm),
        qk_norm_over="all",
        clip_qkv=reader.optional_number("clip_qkv", default=None),
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_experts", "num_local_experts", default=64),
        experts_per_token=reader.integer("num_experts_per_tok", default=8),
        expert=mlp_of(reader),
        router=Router(normalize=reader.boolean("norm_topk_prob", default=False)),
    )
    layers = (sequential(attention, mixture, norm=norm),) * reader.integer("num_hidden_layers")
    return decoder_spec(reader, "olmoe", layers, final_norm=norm, weights=weight_rules())
