"""glm4_moe_lite (GLM-4.7-Flash): deepseek_v3 with one group of experts."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import deepseek_spec
from tgi.architectures.families.deepseek_v3 import sigmoid_router
from tgi.architectures.layers import dense_layers
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Glm4MoeLiteForCausalLM from its config."""
    reader = ConfigReader(config)
    return deepseek_spec(
        reader,
        "glm4_moe_lite",
        sigmoid_router(reader, scale=1.8, num_groups=1, groups_per_token=1),
        dense=dense_layers(reader, reader.integer("num_hidden_layers"), default=1),
        interleaved=reader.boolean("rope_interleave", default=True),
    )
