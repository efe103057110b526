"""deepseek_v3: deepseek_v2 with sigmoid scores, and a correction that only affects the choice."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import deepseek_spec
from tgi.architectures.layers import dense_layers
from tgi.architectures.spec import ModelSpec, Router

__all__ = ["sigmoid_router", "spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of DeepseekV3ForCausalLM from its config. Kimi-K2 has the same architecture
    under another `model_type`.
    """
    reader = ConfigReader(config)
    return deepseek_spec(
        reader,
        config["model_type"],
        sigmoid_router(reader, scale=2.5, num_groups=8, groups_per_token=4),
        dense=dense_layers(reader, reader.integer("num_hidden_layers"), default=3),
        interleaved=reader.boolean("rope_interleave", default=True),
    )


def sigmoid_router(
    reader: ConfigReader, *, scale: float, num_groups: int, groups_per_token: int
) -> Router:
    """Read the router of deepseek_v3 and its successors. The arguments are defaults."""
    return Router(
        score="sigmoid",
        normalize=reader.boolean("norm_topk_prob", default=True),
        scale=reader.number("routed_scaling_factor", default=scale),
        correction_bias=True,
        num_groups=reader.integer("n_group", default=num_groups),
        groups_per_token=reader.integer("topk_group", default=groups_per_token),
        group_top=2,
    )
