"""glm4 (GLM-4-0414, GLM-Z1): glm with additional norms after the mixers."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.glm import glm_spec
from tgi.architectures.spec import ModelSpec
from tgi.architectures.weight_names import Modules

__all__ = ["spec"]

_POST_NORMS: Modules = {
    "attention.post_norm": "post_self_attn_layernorm",
    "mlp.post_norm": "post_mlp_layernorm",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Glm4ForCausalLM from its config."""
    return glm_spec(ConfigReader(config), "glm4", _POST_NORMS)
