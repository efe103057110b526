"""granite: llama with factors for embedding, attention scores, residual and logits."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
    weight_rules,
)
from tgi.architectures.layers import FeedForward, sequential
from tgi.architectures.spec import Embedding, Head, ModelSpec, WeightRule

__all__ = ["granite_spec", "spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GraniteForCausalLM from its config."""
    reader = ConfigReader(config)
    mlp = mlp_of(reader, bias=reader.boolean("mlp_bias", default=False))
    return granite_spec(reader, "granite", mlp, weight_rules())


def granite_spec(
    reader: ConfigReader,
    model_type: str,
    feed_forward: FeedForward,
    weights: tuple[WeightRule, ...],
    *,
    is_rotary: bool = True,
) -> ModelSpec:
    """Build the parts that granite and its successors have in common.

    `is_rotary` is whether there is a rotary embedding.
    """
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias)
    attention = msgspec.structs.replace(
        attention,
        scale=reader.number("attention_multiplier", default=1.0),
        rope=attention.rope if is_rotary else None,
    )
    layer = sequential(
        attention,
        feed_forward,
        norm=rms_norm(reader),
        residual_scale=reader.number("residual_multiplier", default=1.0),
    )
    return decoder_spec(
        reader,
        model_type,
        (layer,) * reader.integer("num_hidden_layers"),
        embedding=Embedding(scale=reader.number("embedding_multiplier", default=1.0)),
        head=Head(
            tied=reader.boolean("tie_word_embeddings", default=False),
            scale=1.0 / reader.number("logits_scaling", default=1.0),
        ),
        weights=weights,
    )
