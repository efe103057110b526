"""deepseek_v32 (DeepSeek-V3.2) and glm_moe_dsa (GLM-5): deepseek_v3 with an index of keys.

The index chooses the keys of each query. The index chooses all keys if the context has at most
`index_topk` tokens, so such contexts need no index. Longer contexts are not supported.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v2 import deepseek_spec
from tgi.architectures.families.deepseek_v3 import sigmoid_router
from tgi.architectures.layers import dense_layers
from tgi.architectures.spec import ModelSpec

__all__ = ["spec"]

_GROUPS = {"deepseek_v32": (8, 4), "glm_moe_dsa": (1, 1)}
"""Defaults of `n_group` and `topk_group`."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of DeepseekV32ForCausalLM or GlmMoeDsaForCausalLM from its config."""
    model_type = config["model_type"]
    reader = ConfigReader({"index_topk": 2048} | config)
    num_groups, groups_per_token = _GROUPS[model_type]
    result = deepseek_spec(
        reader,
        model_type,
        sigmoid_router(reader, scale=2.5, num_groups=num_groups, groups_per_token=groups_per_token),
        dense=dense_layers(reader, reader.integer("num_hidden_layers"), default=3),
    )
    return msgspec.structs.replace(
        result,
        max_positions=min(result.max_positions, reader.integer("index_topk")),
        ignored=(*result.ignored, "*.self_attn.indexer.*"),
    )
