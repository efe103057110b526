"""baichuan (1 and 2): llama with a fused qkv matrix.

The 13B models have ALiBi. In the second generation the rows of the head are normalised.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    FRAME,
    GATED_MLP,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Attention, ModelSpec, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_SECOND_VOCAB_SIZE = 125_696
"""The only value by which the configs of the two generations differ."""

_ATTENTION: Modules = {
    ("attention.q", "attention.k", "attention.v"): "self_attn.W_pack",
    "attention.o": "self_attn.o_proj",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of the code in Baichuan-7B, Baichuan-13B, Baichuan2-7B and Baichuan2-13B."""
    reader = ConfigReader(config)
    # Only the configs of the models with rotary embedding have `max_position_embeddings`.
    alibi = not reader.has("max_position_embeddings")
    if alibi:
        reader = ConfigReader(
            config | {"max_position_embeddings": reader.integer("model_max_length")}
        )
    norm = rms_norm(reader)
    layer = sequential(_attention(reader, alibi), mlp_of(reader), norm=norm)
    unit_rows = reader.integer("vocab_size") == _SECOND_VOCAB_SIZE
    layers = (layer,) * reader.integer("num_hidden_layers")
    return decoder_spec(reader, "baichuan", layers, weights=_weight_rules(unit_rows))


def _attention(reader: ConfigReader, alibi: bool) -> Attention:
    attention = attention_of(reader)
    return msgspec.structs.replace(attention, rope=None, alibi=True) if alibi else attention


def _weight_rules(unit_rows: bool) -> tuple[WeightRule, ...]:
    rules = module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | _ATTENTION | GATED_MLP)
    return tuple(
        (
            msgspec.structs.replace(rule, unit_rows=unit_rows)
            if rule.parameters == ("head.weight",)
            else rule
        )
        for rule in rules
    )
