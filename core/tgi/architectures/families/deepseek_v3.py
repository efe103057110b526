"""deepseek_v3: deepseek_v2 with sigmoid scores, and a correction that only affects the choice."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import deepseek_spec
from tgi.architectures.spec import ModelSpec, Router

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of DeepseekV3ForCausalLM from its config."""
    reader = ConfigReader(config)
    router = Router(
        score="sigmoid",
        normalize=reader.boolean("norm_topk_prob", default=True),
        scale=reader.number("routed_scaling_factor", default=2.5),
        correction_bias=True,
        num_groups=reader.integer("n_group", default=8),
        groups_per_token=reader.integer("topk_group", default=4),
        group_top=2,
    )
    dense_layers = reader.integer("first_k_dense_replace", default=3, minimum=0)
    interleaved = reader.boolean("rope_interleave", default=True)
    return deepseek_spec(
        reader, "deepseek_v3", router, dense_layers=dense_layers, interleaved=interleaved
    )
