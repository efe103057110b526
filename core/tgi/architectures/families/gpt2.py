"""gpt2: learned positions, layer norms, a fused qkv matrix. Every matrix is stored as [in, out].

bigcode's first model, santacoder, also has the type gpt2. It has one key and value head and two
matrices in place of the fused one.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import sequential
from tgi.architectures.spec import (
    MLP,
    Attention,
    Embedding,
    Head,
    LearnedPositions,
    ModelSpec,
    Norm,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["FRAME", "LAYER", "MLP_AND_OUTPUT", "NORMS", "gpt2_spec", "spec"]

LAYER = "h.{layer}"
FRAME: Modules = {
    "embedding": "wte",
    "embedding.positions": "wpe",
    "decoder.final_norm": "ln_f",
    "head": "lm_head",
}
NORMS: Modules = {"attention.norm": "ln_1", "mlp.norm": "ln_2"}
MLP_AND_OUTPUT: Modules = {
    "attention.o": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}

_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "attn.c_attn"}
_Q_AND_KV: Modules = {"attention.q": "attn.q_attn", ("attention.k", "attention.v"): "attn.kv_attn"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GPT2LMHeadModel from its config.

    If `attention_head_type` is multiquery, it is that of bigcode's GPT2LMHeadCustomModel.
    """
    reader = ConfigReader(config)
    multi_query = reader.choice(
        "attention_head_type", table={"multihead": False, "multiquery": True}, default="multihead"
    )
    matrices = (_Q_AND_KV if multi_query else _QKV) | MLP_AND_OUTPUT
    weights = (
        module_rules(FRAME)
        + layer_rules(LAYER, NORMS)
        + layer_rules(LAYER, matrices, transposed=True)
    )
    return gpt2_spec(
        reader, "gpt2", multi_query=multi_query, default_activation="gelu_new", weights=weights
    )


def gpt2_spec(
    reader: ConfigReader,
    model_type: str,
    *,
    multi_query: bool,
    default_activation: str,
    weights: tuple[WeightRule, ...],
) -> ModelSpec:
    """Build the parts that gpt2, santacoder and gpt_bigcode have in common.

    They differ in the tensor names and the number of key heads.
    """
    hidden, num_layers = (
        reader.integer("n_embd", "hidden_size"),
        reader.integer("n_layer", "num_hidden_layers"),
    )
    max_positions = reader.integer("n_positions", "max_position_embeddings", default=1024)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=True)
    mlp = MLP(
        intermediate_size=reader.integer("n_inner", default=4 * hidden),
        activation=reader.activation("activation_function", default=default_activation),
        gated=False,
        bias=True,
    )
    layers = tuple(
        sequential(_attention(reader, hidden, layer, multi_query), mlp, norm=norm)
        for layer in range(num_layers)
    )
    return ModelSpec(
        model_type=model_type,
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size", default=50257),
        embedding=Embedding(positions=LearnedPositions(num_positions=max_positions)),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=weights,
        max_positions=max_positions,
        prefixes=("transformer.", ""),
        ignored=("*.attn.bias", "*.attn.masked_bias"),  # the causal mask, saved by old versions
    )


def _attention(reader: ConfigReader, hidden: int, layer: int, multi_query: bool) -> Attention:
    num_heads = reader.integer("n_head", "num_attention_heads")
    head_dim = reader.divided("n_embd", hidden, "n_head", num_heads)
    scale = head_dim**-0.5 if reader.boolean("scale_attn_weights", default=True) else 1.0
    if reader.boolean("scale_attn_by_inverse_layer_idx", default=False):
        scale /= layer + 1
    return Attention(
        num_heads=num_heads,
        num_kv_heads=1 if multi_query else num_heads,
        head_dim=head_dim,
        scale=scale,
        qkv_bias=True,
        output_bias=True,
    )
