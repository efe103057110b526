"""persimmon: layer norms, a plain MLP whose activation is the square of ReLU, biases everywhere.

Each query and key head has a norm, and half of each head is rotated. The fused matrix contains the
rows of query, key and value of one head after the other.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import LAYER, PRE_NORMS, attention_of, decoder_spec, mlp_of
from tgi.architectures.layers import sequential
from tgi.architectures.spec import ModelSpec, Norm
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_FRAME: Modules = {
    "embedding": "embed_tokens",
    "decoder.final_norm": "final_layernorm",
    "head": "lm_head",
}
_MODULES: Modules = PRE_NORMS | {
    "attention.o": "self_attn.dense",
    "attention.q_norm": "self_attn.q_layernorm",
    "attention.k_norm": "self_attn.k_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "self_attn.query_key_value"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of PersimmonForCausalLM from its config."""
    reader = ConfigReader(config)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_eps", default=1e-5), bias=True)
    attention = attention_of(
        reader,
        default_partial=0.5,
        qkv_bias=True,
        output_bias=True,
        head_norm=norm if reader.boolean("qk_layernorm", default=True) else None,
    )
    mlp = mlp_of(reader, default_activation="relu2", gated=False, bias=True)
    return decoder_spec(
        reader,
        "persimmon",
        (sequential(attention, mlp, norm=norm),) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        weights=module_rules(_FRAME)
        + layer_rules(LAYER, _MODULES)
        + layer_rules(LAYER, _QKV, layout="grouped"),
    )
