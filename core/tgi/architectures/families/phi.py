"""phi (1, 1.5 and 2): attention and a plain MLP in parallel after one layer norm.

Part of each head is rotated, and there are biases everywhere.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import LAYER, attention_of, decoder_spec, mlp_of
from tgi.architectures.layers import parallel
from tgi.architectures.spec import Head, ModelSpec, Norm
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_FRAME: Modules = {
    "embedding": "embed_tokens",
    "decoder.final_norm": "final_layernorm",
    "head": "lm_head",
}
_MODULES: Modules = {
    "block0.norm": "input_layernorm",
    **{f"attention.{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attention.o": "self_attn.dense",
    "attention.q_norm": "self_attn.q_layernorm",
    "attention.k_norm": "self_attn.k_layernorm",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of PhiForCausalLM from its config."""
    reader = ConfigReader(config)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_eps", default=1e-5), bias=True)
    attention = attention_of(
        reader,
        default_partial=0.5,
        qkv_bias=True,
        output_bias=True,
        head_norm=norm if reader.boolean("qk_layernorm", default=False) else None,
    )
    mlp = mlp_of(reader, default_activation="gelu_new", gated=False, bias=True)
    return decoder_spec(
        reader,
        "phi",
        (parallel(attention, mlp, norm),) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        head=Head(tied=reader.boolean("tie_word_embeddings", default=False), bias=True),
        weights=module_rules(_FRAME) + layer_rules(LAYER, _MODULES),
    )
