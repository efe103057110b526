"""ministral3: mistral whose queries are scaled at positions beyond the original context."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.positions import PositionScale
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]

_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""The default of Ministral3Config."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Ministral3ForCausalLM from its config."""
    has_rope = config.get("rope_parameters") or config.get("rope_scaling")
    reader = ConfigReader(config if has_rope else config | {"rope_parameters": _ROPE})
    attention = msgspec.structs.replace(
        attention_of(reader, default_kv_heads=8, default_head_dim=128, default_theta=1_000_000.0),
        window=reader.optional_integer("sliding_window", default=None),
        position_scale=_position_scale(reader),
    )
    norm = rms_norm(reader, default_eps=1e-5)
    layer = sequential(attention, mlp_of(reader), norm=norm)
    return decoder_spec(
        reader, "ministral3", (layer,) * reader.integer("num_hidden_layers"), final_norm=norm
    )


def _position_scale(reader: ConfigReader) -> PositionScale | None:
    rope = reader.section("rope_scaling" if reader.has("rope_scaling") else "rope_parameters")
    if not rope.has("llama_4_scaling_beta"):
        return None
    return PositionScale(
        beta=rope.number("llama_4_scaling_beta"),
        period=rope.integer("original_max_position_embeddings"),
    )
