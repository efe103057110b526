"""qwen3_next: three layers of linear attention for each layer of gated attention.

Each layer has a mixture of experts with a shared expert.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import IGNORED, LAYER, attention_of, decoder_spec, rms_norm
from tgi.architectures.families.qwen2_moe import feed_forwards
from tgi.architectures.families.qwen2_moe import weight_rules as qwen2_moe_rules
from tgi.architectures.layers import FeedForward, sequential
from tgi.architectures.spec import (
    MLP,
    Layer,
    LinearAttention,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Router,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules

__all__ = ["gated_rules", "hybrid_layers", "mixture_of", "spec"]

_PARAMETER = "decoder.layers.{layer}.linear_attention"
_BY_KEY_HEAD: Modules = {
    tuple(
        f"linear_attention.{part}" for part in ("q", "k", "v", "gate")
    ): "linear_attn.in_proj_qkvz",
    ("linear_attention.beta", "linear_attention.decay"): "linear_attn.in_proj_ba",
}
_LINEAR_ATTENTION: Modules = {
    "linear_attention.norm": "input_layernorm",
    tuple(f"linear_attention.conv_{part}" for part in "qkv"): "linear_attn.conv1d",
    "linear_attention.gated_norm": "linear_attn.norm",
    "linear_attention.out": "linear_attn.out_proj",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Qwen3NextForCausalLM from its config."""
    reader = ConfigReader(config)
    mixture = mixture_of(reader, num_experts=512, experts_per_token=10)
    layers = hybrid_layers(reader, feed_forwards(reader, mixture), default_kv_heads=2)
    weights = (
        *gated_rules(),
        *layer_rules(LAYER, _BY_KEY_HEAD, layout="grouped"),
    )
    norm = rms_norm(reader, unit_offset=True)
    result = decoder_spec(reader, "qwen3_next", layers, final_norm=norm, weights=weights)
    # The tensors `mtp.*` are layers for multi-token prediction.
    return msgspec.structs.replace(result, ignored=(*IGNORED, "mtp.*"))


def hybrid_layers(
    reader: ConfigReader, feed_forward: tuple[FeedForward, ...], *, default_kv_heads: int
) -> tuple[Layer, ...]:
    """Build the layers of qwen3_next and qwen3_5. `feed_forward` has one mixer per layer."""
    norm, bias = rms_norm(reader, unit_offset=True), reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader,
        default_kv_heads=default_kv_heads,
        default_head_dim=256,
        default_partial=0.25,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norm,
    )
    mixers: dict[str, Mixer] = {
        "full_attention": msgspec.structs.replace(attention, output_gate=True),
        "linear_attention": _linear_attention(reader),
    }
    return tuple(
        sequential(mixers[kind], mixer, norm=norm)
        for kind, mixer in zip(_layer_kinds(reader), feed_forward, strict=True)
    )


def _layer_kinds(reader: ConfigReader) -> tuple[str, ...]:
    """The kind of each layer, from `layer_types` if present.

    Otherwise every `full_attention_interval`-th layer has full attention.
    """
    num_layers = reader.integer("num_hidden_layers")
    kinds = reader.strings("layer_types", ("full_attention", "linear_attention"), num_layers)
    every = reader.integer("full_attention_interval", default=4)
    return kinds or tuple(
        "linear_attention" if (layer + 1) % every else "full_attention"
        for layer in range(num_layers)
    )


def _linear_attention(reader: ConfigReader) -> LinearAttention:
    num_key_heads = reader.integer("linear_num_key_heads", default=16)
    num_value_heads = reader.integer("linear_num_value_heads", default=32)
    reader.divided("linear_num_value_heads", num_value_heads, "linear_num_key_heads", num_key_heads)
    return LinearAttention(
        num_key_heads=num_key_heads,
        num_value_heads=num_value_heads,
        key_head_dim=reader.integer("linear_key_head_dim", default=128),
        value_head_dim=reader.integer("linear_value_head_dim", default=128),
        conv_kernel=reader.integer("linear_conv_kernel_dim", default=4, minimum=2),
        norm=Norm(kind="rms", eps=reader.number("rms_norm_eps", default=1e-6)),
    )


def mixture_of(
    reader: ConfigReader, *, num_experts: int, experts_per_token: int
) -> MixtureOfExperts:
    """Read the mixture of experts. The arguments are the defaults of its two numbers."""

    def sized(name: str) -> MLP:
        return MLP(
            intermediate_size=reader.integer(name, default=512),
            activation=reader.activation("hidden_act", default="silu"),
        )

    return MixtureOfExperts(
        num_experts=reader.integer("num_experts", default=num_experts),
        experts_per_token=reader.integer("num_experts_per_tok", default=experts_per_token),
        expert=sized("moe_intermediate_size"),
        router=Router(normalize=reader.boolean("norm_topk_prob", default=True)),
        shared=sized("shared_expert_intermediate_size"),
        shared_gate=True,
    )


def gated_rules() -> tuple[WeightRule, ...]:
    """Return the rules that qwen3_next and qwen3_5 have in common: the rules of qwen2_moe, changed
    for the queries, and rules of the linear attention.

    The rows of each query head are followed by the rows of its gate.
    """
    vectors = tuple(
        WeightRule(name=f"{LAYER}.linear_attn.{name}", parameters=(f"{_PARAMETER}.{part}",))
        for name, part in {"dt_bias": "dt_bias", "A_log": "a_log"}.items()
    )
    shared = tuple(
        rule for rule in qwen2_moe_rules() if not rule.name.startswith(f"{LAYER}.self_attn.q_proj")
    )
    return (
        *shared,
        *layer_rules(
            LAYER, {("attention.q", "attention.gate"): "self_attn.q_proj"}, layout="by_head"
        ),
        *layer_rules(LAYER, _LINEAR_ATTENTION),
        *vectors,
    )
