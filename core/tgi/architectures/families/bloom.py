"""bloom: ALiBi, a norm after the embedding, qkv fused by head, and biases everywhere."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
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

_LAYER = "h.{layer}"
_FRAME: Modules = {
    "embedding": "word_embeddings",
    "embedding.norm": "word_embeddings_layernorm",
    "decoder.final_norm": "ln_f",
    "head": "lm_head",
}
_MODULES: Modules = {
    "block0.norm": "input_layernorm",
    "block1.norm": "post_attention_layernorm",
    "attention.o": "self_attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "self_attention.query_key_value"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of BloomForCausalLM from its config."""
    reader = ConfigReader(config)
    hidden = reader.integer("n_embed", "hidden_size")
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=True)
    from_norm = reader.boolean("apply_residual_connection_post_layernorm", default=False)
    mlp = MLP(intermediate_size=4 * hidden, activation="gelu_tanh", gated=False, bias=True)
    blocks = tuple(
        Block(branches=(Branch(mixer=mixer),), norm=norm, residual_from_norm=from_norm)
        for mixer in (_attention(reader, hidden), mlp)
    )
    layers = (Layer(blocks=blocks),) * reader.integer("n_layer", "num_hidden_layers")
    return ModelSpec(
        model_type="bloom",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(norm=norm),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=_weight_rules(),
        max_positions=reader.integer("seq_length", default=0, minimum=0),
        prefixes=("transformer.", ""),
    )


def _attention(reader: ConfigReader, hidden: int) -> Attention:
    num_heads = reader.integer("n_head", "num_attention_heads")
    head_dim = reader.divided("hidden_size", hidden, "n_head", num_heads)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        alibi=True,
        qkv_bias=True,
        output_bias=True,
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    return (
        module_rules(_FRAME)
        + layer_rules(_LAYER, _MODULES)
        + layer_rules(_LAYER, _QKV, layout="grouped")
    )
