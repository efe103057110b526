"""gpt_neo: gpt2 with separate matrices, whose attention scores are not scaled.

Every second layer has a sliding window.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.gpt2 import FRAME, LAYER, NORMS
from tgi.architectures.layers import sequential
from tgi.architectures.spec import (
    MLP,
    Attention,
    Embedding,
    Head,
    LearnedPositions,
    ModelSpec,
    Norm,
    Stack,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_MODULES: Modules = NORMS | {
    **{f"attention.{part}": f"attn.attention.{part}_proj" for part in "qkv"},
    "attention.o": "attn.attention.out_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GPTNeoForCausalLM from its config."""
    reader = ConfigReader(config)
    hidden, num_heads = reader.integer("hidden_size"), reader.integer("num_heads")
    max_positions = reader.integer("max_position_embeddings", default=2048)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=True)
    full = Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=reader.divided("hidden_size", hidden, "num_heads", num_heads),
        scale=1.0,
        output_bias=True,
    )
    local = msgspec.structs.replace(full, window=reader.integer("window_size", default=256))
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size", default=4 * hidden),
        activation=reader.activation("activation_function", default="gelu_new"),
        gated=False,
        bias=True,
    )
    layers = tuple(
        sequential(local if kind == "local" else full, mlp, norm=norm)
        for kind in _layer_kinds(reader, config, reader.integer("num_layers"))
    )
    return ModelSpec(
        model_type="gpt_neo",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size", default=50257),
        embedding=Embedding(positions=LearnedPositions(num_positions=max_positions)),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=module_rules(FRAME) + layer_rules(LAYER, _MODULES),
        max_positions=max_positions,
        prefixes=("transformer.", ""),
        # The causal mask, saved by old versions.
        ignored=("*.attn.attention.bias", "*.attn.attention.masked_bias"),
    )


def _layer_kinds(reader: ConfigReader, config: dict[str, Any], num_layers: int) -> tuple[str, ...]:
    """Read `attention_types`, a list of pairs of a pattern and its number of repeats."""
    pairs = config.get("attention_types", [[["global", "local"], 12]])
    kinds: list[str] = []
    for pair in pairs if isinstance(pairs, list) else ():
        match pair:
            case [list(pattern), int(repeats)] if 0 <= repeats <= num_layers:
                kinds += pattern * repeats
            case _:
                kinds.append("another form")
    if len(kinds) != num_layers or not all(kind in ("global", "local") for kind in kinds):
        raise reader.error(
            "attention_types",
            f"must be pairs of a pattern and a number of repeats for {num_layers} layers",
        )
    return tuple(kinds)
