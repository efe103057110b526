"""lfm2: layers with a short convolution or with attention, each followed by an MLP."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import LAYER, attention_of, decoder_spec
from tgi.architectures.layers import FeedForward, sequential
from tgi.architectures.spec import (
    MLP,
    Head,
    Mixer,
    ModelSpec,
    Norm,
    ShortConvolution,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["FRAME", "MODULES", "lfm2_spec", "spec"]

FRAME: Modules = {
    "embedding": "embed_tokens",
    "decoder.final_norm": "embedding_norm",
    "head": "lm_head",
}
MODULES: Modules = {
    "attention.norm": "operator_norm",
    "short_convolution.norm": "operator_norm",
    "mlp.norm": "ffn_norm",
    "moe.norm": "ffn_norm",
    **{f"attention.{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attention.o": "self_attn.out_proj",
    "attention.q_norm": "self_attn.q_layernorm",
    "attention.k_norm": "self_attn.k_layernorm",
    tuple(f"short_convolution.{part}" for part in ("in_gate", "gate", "in_x")): "conv.in_proj",
    "short_convolution.conv_x": "conv.conv",
    "short_convolution.out": "conv.out_proj",
    "mlp.gate": "feed_forward.w1",
    "mlp.up": "feed_forward.w3",
    "mlp.down": "feed_forward.w2",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Lfm2ForCausalLM from its config."""
    reader = ConfigReader(config)
    mlp = MLP(intermediate_size=_intermediate_size(reader), activation="silu")
    return lfm2_spec(reader, "lfm2", (mlp,) * reader.integer("num_hidden_layers"))


def lfm2_spec(
    reader: ConfigReader,
    model_type: str,
    feed_forward: tuple[FeedForward, ...],
    rules: tuple[WeightRule, ...] = (),
) -> ModelSpec:
    """Build the parts that lfm2 and lfm2_moe have in common.

    `feed_forward` has one mixer per layer. `rules` are the additional weight rules.
    """
    norm = Norm(kind="rms", eps=reader.number("norm_eps", default=1e-5))
    convolution = ShortConvolution(
        channels=reader.integer("hidden_size"),
        conv_kernel=reader.integer("conv_L_cache", default=3, minimum=2),
        bias=reader.boolean("conv_bias", default=False),
    )
    attention = attention_of(reader, default_kv_heads=8, default_theta=1_000_000.0, head_norm=norm)
    mixers: dict[bool, Mixer] = {True: attention, False: convolution}
    layers = tuple(
        sequential(mixers[has_attention], mixer, norm=norm)
        for has_attention, mixer in zip(
            _attention_layers(reader, len(feed_forward)), feed_forward, strict=True
        )
    )
    tied = reader.boolean("tie_embedding", "tie_word_embeddings", default=True)
    weights = module_rules(FRAME) + layer_rules(LAYER, MODULES) + rules
    return msgspec.structs.replace(
        decoder_spec(reader, model_type, layers, final_norm=norm, weights=weights),
        head=Head(tied=tied),
    )


def _attention_layers(reader: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    """Return for each layer whether it has attention. Without `layer_types` and `full_attn_idxs`,
    every layer has attention.
    """
    kinds = reader.strings("layer_types", ("full_attention", "conv"), num_layers)
    if kinds is not None:
        return tuple(kind == "full_attention" for kind in kinds)
    if not reader.has("full_attn_idxs"):
        return (True,) * num_layers
    indices = reader.integers("full_attn_idxs")
    return tuple(layer in indices for layer in range(num_layers))


def _intermediate_size(reader: ConfigReader) -> int:
    """Return the size in the config. If `block_auto_adjust_ff_dim` is set, return two thirds of
    this size. This value is multiplied by `block_ffn_dim_multiplier` and rounded up, unless the
    multiplier is null.
    """
    size = reader.integer("block_ff_dim", "intermediate_size", default=12288)
    if not reader.boolean("block_auto_adjust_ff_dim", default=True):
        return size
    size = 2 * size // 3
    if reader.is_null("block_ffn_dim_multiplier"):
        return size
    size = int(reader.number("block_ffn_dim_multiplier", default=1.0) * size)
    multiple = reader.integer("block_multiple_of", default=256)
    return multiple * -(-size // multiple)
