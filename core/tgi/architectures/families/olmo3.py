"""olmo3: olmo2 with sliding windows.

Every fourth layer attends to the full context, and only its rotary embedding is scaled.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.families.olmo2 import weight_rules
from tgi.architectures.layers import sequential, sliding_layers
from tgi.architectures.positions import Rope
from tgi.architectures.rope import read_rope
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]

_THETA = 500_000.0


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Olmo3ForCausalLM from its config."""
    reader = ConfigReader(config)
    bias, norm = reader.boolean("attention_bias", default=False), rms_norm(reader, default_eps=1e-5)
    attention = attention_of(
        reader,
        default_theta=_THETA,
        rope_layer_type="full_attention",
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norm,
    )
    full = msgspec.structs.replace(attention, qk_norm_over="all")
    sliding = msgspec.structs.replace(
        full,
        window=reader.integer("sliding_window", default=4096),
        rope=_local_rope(reader, full.head_dim),
    )
    slides = sliding_layers(reader, reader.integer("num_hidden_layers"), pattern=4)
    layers = tuple(
        sequential(sliding if slide else full, mlp_of(reader), post_norm=norm) for slide in slides
    )
    return decoder_spec(reader, "olmo3", layers, final_norm=norm, weights=weight_rules())


def _local_rope(reader: ConfigReader, head_dim: int) -> Rope:
    """Layers with a window have a rotary embedding without the model's scaling."""
    if reader.has("rope_parameters") and reader.section("rope_parameters").nested:
        return read_rope(
            reader,
            head_dim=head_dim,
            max_positions=reader.integer("max_position_embeddings"),
            default_theta=_THETA,
            layer_type="sliding_attention",
        )
    return Rope(theta=reader.number("rope_theta", default=_THETA), rotary_dim=head_dim)
