"""phimoe: mixtral with layer norms, biases and LongRoPE. Experts are chosen one by one."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of
from tgi.architectures.families.mixtral import weight_rules
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Head, MixtureOfExperts, ModelSpec, Norm, Router

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of PhimoeForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader, default_kv_heads=8, default_theta=1_000_000.0, qkv_bias=bias, output_bias=bias
    )
    attention = msgspec.structs.replace(
        attention, window=reader.optional_integer("sliding_window", default=None)
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=16),
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=mlp_of(reader),
        router=Router(
            score="sparse_mixer",
            normalize=False,
            jitter=reader.number("router_jitter_noise", default=0.01),
        ),
    )
    norm = Norm(kind="layer", eps=reader.number("rms_norm_eps", default=1e-5), bias=True)
    head = Head(
        tied=reader.boolean("tie_word_embeddings", default=False),
        bias=reader.boolean("lm_head_bias", default=False),
    )
    layers = (sequential(attention, mixture, norm=norm),) * reader.integer("num_hidden_layers")
    return decoder_spec(
        reader, "phimoe", layers, final_norm=norm, head=head, weights=weight_rules()
    )
