"""stablelm: llama with layer norms and rotary embedding of part of each head.

Some models have parallel branches, or a norm for each head.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    GATED_MLP,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
)
from tgi.architectures.layers import parallel, sequential
from tgi.architectures.spec import ModelSpec, Norm
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_HEAD_NORMS: Modules = {
    f"attention.{part}_norm": f"self_attn.{part}_layernorm.norms.{{head}}" for part in "qk"
}
_SHARED_NORM: Modules = {"block0.norm": "input_layernorm"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of StableLmForCausalLM from its config."""
    reader = ConfigReader(config)
    eps = reader.number("layer_norm_eps", default=1e-5)
    attention = attention_of(
        reader, default_partial=0.25, qkv_bias=reader.boolean("use_qkv_bias", default=False)
    )
    if reader.boolean("qk_layernorm", default=False):
        head_norm = Norm(kind="layer", eps=eps)
        attention = msgspec.structs.replace(
            attention, q_norm=head_norm, k_norm=head_norm, qk_norm_over="each_head"
        )
    norm, mlp = Norm(kind="layer", eps=eps, bias=True), mlp_of(reader)
    is_parallel = reader.boolean("use_parallel_residual", default=False)
    layer = parallel(attention, mlp, norm) if is_parallel else sequential(attention, mlp, norm=norm)
    norms = _SHARED_NORM if is_parallel else PRE_NORMS
    weights = module_rules(FRAME) + layer_rules(LAYER, norms | ATTENTION | _HEAD_NORMS | GATED_MLP)
    layers = (layer,) * reader.integer("num_hidden_layers")
    return decoder_spec(reader, "stablelm", layers, final_norm=norm, weights=weights)
