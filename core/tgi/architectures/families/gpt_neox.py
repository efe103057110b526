"""gpt_neox (pythia): rotary embedding of part of each head, and qkv fused by head.

Attention and MLP are parallel or sequential.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import LAYER
from tgi.architectures.rope import read_rope
from tgi.architectures.spec import (
    MLP,
    Attention,
    Block,
    Branch,
    Embedding,
    Head,
    Layer,
    ModelSpec,
    Norm,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_FRAME: Modules = {
    "embedding": "embed_in",
    "decoder.final_norm": "final_layer_norm",
    "head": "embed_out",
}
_MODULES: Modules = {
    "attention.norm": "input_layernorm",
    "attention.o": "attention.dense",
    "mlp.norm": "post_attention_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "attention.query_key_value"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GPTNeoXForCausalLM from its config."""
    reader = ConfigReader(config)
    max_positions = reader.integer("max_position_embeddings", default=2048)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_eps", default=1e-5), bias=True)
    attention = Branch(mixer=_attention(reader, max_positions), norm=norm)
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size"),
        activation=reader.activation("hidden_act", default="gelu"),
        gated=False,
        bias=True,
    )
    feed_forward = Branch(mixer=mlp, norm=norm)
    if reader.boolean("use_parallel_residual", default=True):
        layer = Layer(blocks=(Block(branches=(attention, feed_forward)),))
    else:
        layer = Layer(blocks=(Block(branches=(attention,)), Block(branches=(feed_forward,))))
    return ModelSpec(
        model_type="gpt_neox",
        hidden_size=reader.integer("hidden_size"),
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(
            Stack(
                kind="decoder",
                layers=(layer,) * reader.integer("num_hidden_layers"),
                final_norm=norm,
            ),
        ),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=False)),
        weights=_weight_rules(),
        max_positions=max_positions,
        prefixes=("gpt_neox.", ""),
        # The causal mask and the rotary frequencies, saved by old versions.
        ignored=("*.attention.bias", "*.attention.masked_bias", "*.attention.rotary_emb.inv_freq"),
    )


def _attention(reader: ConfigReader, max_positions: int) -> Attention:
    hidden, num_heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    head_dim = reader.divided("hidden_size", hidden, "num_attention_heads", num_heads)
    bias = reader.boolean("attention_bias", default=True)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(
            reader, head_dim=head_dim, max_positions=max_positions, default_partial=0.25
        ),
        qkv_bias=bias,
        output_bias=bias,
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    return (
        module_rules(_FRAME)
        + layer_rules(LAYER, _MODULES)
        + layer_rules(LAYER, _QKV, layout="grouped")
    )
