"""cohere2_moe: cohere2 with a mixture of experts in most layers.

The softmax or sigmoid is computed over the chosen experts only. Shared experts are optional.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.cohere import NORMS, norm_of
from tgi.architectures.families.deepseek_v2 import EXPERTS
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import dense_layers, parallel
from tgi.architectures.spec import MLP, Attention, Head, MixtureOfExperts, ModelSpec, Router
from tgi.architectures.weight_names import layer_rules, module_rules

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Cohere2MoeForCausalLM from its config."""
    reader, num_layers = ConfigReader(config), ConfigReader(config).integer("num_hidden_layers")
    norm = rms_norm(reader) if reader.has("rms_norm_eps") else norm_of(reader)
    dense = dense_layers(reader, num_layers, default=0)
    mixture, mlp = _mixture(reader), _prefix_mlp(reader) if any(dense) else mlp_of(reader)
    layers = tuple(
        parallel(attention, mlp if is_dense else mixture, norm)
        for attention, is_dense in zip(_attentions(reader, dense), dense, strict=True)
    )
    return decoder_spec(
        reader,
        "cohere2_moe",
        layers,
        final_norm=norm,
        head=Head(
            tied=reader.boolean("tie_word_embeddings", default=True),
            scale=reader.number("logit_scale", default=0.0625),
        ),
        weights=module_rules(FRAME) + layer_rules(LAYER, NORMS | ATTENTION | GATED_MLP | EXPERTS),
    )


def _prefix_mlp(reader: ConfigReader) -> MLP:
    size = reader.integer("prefix_dense_intermediate_size")
    return msgspec.structs.replace(mlp_of(reader), intermediate_size=size)


def _mixture(reader: ConfigReader) -> MixtureOfExperts:
    """Shared experts are added to the experts, or averaged with them."""
    expert = mlp_of(reader)
    num_shared = reader.integer("num_shared_experts", default=0, minimum=0)
    size = expert.intermediate_size * num_shared
    averages = reader.choice(
        "shared_expert_combination_strategy",
        table={"sum": False, "average": True},
        default="average",
    )
    is_sigmoid = reader.choice(
        "expert_selection_fn", table={"softmax": False, "sigmoid": True}, default="softmax"
    )
    return MixtureOfExperts(
        num_experts=reader.integer("num_experts", "num_local_experts", default=8),
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=expert,
        router=Router(
            score="sigmoid" if is_sigmoid else "softmax",
            top_k_first=True,
            normalize=is_sigmoid and reader.boolean("norm_topk_prob", default=True),
        ),
        shared=msgspec.structs.replace(expert, intermediate_size=size) if num_shared else None,
        scale=0.5 if num_shared and averages else 1.0,
    )


def _attentions(reader: ConfigReader, dense: tuple[bool, ...]) -> tuple[Attention, ...]:
    """Layers without a window have a rotary embedding only if they are dense and their window
    pattern is 1.
    """
    bias = reader.boolean("attention_bias", default=False)
    rotary = attention_of(
        reader, default_head_dim=128, interleaved=True, qkv_bias=bias, output_bias=bias
    )
    sliding = msgspec.structs.replace(rotary, window=reader.integer("sliding_window", default=4096))
    full = msgspec.structs.replace(rotary, rope=None)
    prefix_pattern = reader.integer("prefix_dense_sliding_window_pattern", default=1)
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), len(dense))
    if kinds is None:
        pattern, prefix = reader.integer("sliding_window_pattern", default=4), sum(dense)
        numbers = [(layer + 1, prefix_pattern) for layer in range(prefix)]
        numbers += [(layer + 1, pattern) for layer in range(len(dense) - prefix)]
        kinds = tuple(
            "sliding_attention" if number % every else "full_attention" for number, every in numbers
        )
    return tuple(
        sliding
        if kind == "sliding_attention"
        else rotary
        if is_dense and prefix_pattern == 1
        else full
        for kind, is_dense in zip(kinds, dense, strict=True)
    )
