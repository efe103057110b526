"""recurrent_gemma (Griffin): layers with a gated recurrence or with attention in a window."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import GATED_MLP, LAYER, attention_of, decoder_spec, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import (
    MLP,
    Embedding,
    GatedRecurrence,
    Head,
    Mixer,
    ModelSpec,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_KINDS = ("recurrent", "attention")
_FRAME: Modules = {
    "embedding": "embed_tokens",
    "decoder.final_norm": "final_norm",
    "head": "lm_head",
}
_MODULES: Modules = {
    "attention.norm": "temporal_pre_norm",
    "gated_recurrence.norm": "temporal_pre_norm",
    "mlp.norm": "channel_pre_norm",
    **{f"attention.{part}": f"temporal_block.{part}_proj" for part in "qkvo"},
    **{part: f"mlp_block.{str(name).split('.')[1]}" for part, name in GATED_MLP.items()},
    "gated_recurrence.in_gate": "temporal_block.linear_y",
    "gated_recurrence.in_x": "temporal_block.linear_x",
    "gated_recurrence.conv_x": "temporal_block.conv_1d",
    "gated_recurrence.out": "temporal_block.linear_out",
}
_VECTORS = {
    "recurrent_param": "rate",
    **{
        f"{gate}_{kind}": f"{gate}.{kind}"
        for gate in ("input_gate", "recurrent_gate")
        for kind in ("weight", "bias")
    },
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of RecurrentGemmaForCausalLM from its config."""
    # The config has no maximum length, because the memory does not grow with the length.
    reader = ConfigReader(config | {"max_position_embeddings": 1, "head_dim": None})
    hidden, norm = reader.integer("hidden_size"), rms_norm(reader, unit_offset=True)
    num_heads = reader.integer("num_attention_heads", default=10)
    activation = reader.activation("hidden_activation", default="gelu_pytorch_tanh")
    channels = reader.integer("lru_width", default=hidden)
    reader.divided("lru_width", channels, "num_attention_heads", num_heads)
    mixers: dict[str, Mixer] = {
        "attention": msgspec.structs.replace(
            attention_of(
                reader,
                default_heads=10,
                default_partial=0.5,
                qkv_bias=reader.boolean("attention_bias", default=False),
                output_bias=True,
            ),
            window=reader.integer("attention_window_size", "sliding_window", default=2048),
        ),
        "recurrent": GatedRecurrence(
            channels=channels,
            num_blocks=num_heads,
            conv_kernel=reader.integer("conv1d_width", default=4, minimum=2),
            activation=activation,
        ),
    }
    types = config.get("block_types")
    length = max(1, len(types)) if isinstance(types, list) else 1
    cycle = reader.strings("block_types", _KINDS, length) or ("recurrent", *_KINDS)
    inner = reader.integer("intermediate_size") // 2
    mlp = MLP(intermediate_size=inner, activation=activation, bias=True)
    layers = tuple(
        sequential(mixers[cycle[layer % len(cycle)]], mlp, norm=norm)
        for layer in range(reader.integer("num_hidden_layers"))
    )
    result = decoder_spec(
        reader,
        "recurrent_gemma",
        layers,
        final_norm=norm,
        embedding=Embedding(scale=_to_bfloat16(hidden**0.5)),
        head=Head(
            tied=reader.boolean("tie_word_embeddings", default=True),
            softcap=reader.number("logits_soft_cap", default=30.0),
        ),
        weights=_weight_rules(),
    )
    return msgspec.structs.replace(result, max_positions=0)


def _to_bfloat16(value: float) -> float:
    """Round a number as the code published with the model does."""
    bits = np.asarray([value], np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(rounded.astype(np.uint32).view(np.float32)[0])


def _weight_rules() -> tuple[WeightRule, ...]:
    vectors = tuple(
        WeightRule(
            name=f"{LAYER}.temporal_block.rg_lru.{name}",
            parameters=(f"decoder.layers.{{layer}}.gated_recurrence.{part}",),
        )
        for name, part in _VECTORS.items()
    )
    return (*module_rules(_FRAME), *layer_rules(LAYER, _MODULES), *vectors)
