"""falcon (first named RefinedWeb): rotary attention in parallel with the MLP.

The falcon-rw models have ALiBi, and their two mixers are sequential.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import parallel, sequential
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

_LAYER = "h.{layer}"
_FRAME: Modules = {"embedding": "word_embeddings", "decoder.final_norm": "ln_f", "head": "lm_head"}
_QKV: Modules = {("attention.q", "attention.k", "attention.v"): "self_attention.query_key_value"}
_MODULES: Modules = {
    "attention.o": "self_attention.dense",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_SEQUENTIAL_NORMS: Modules = {
    "attention.norm": "input_layernorm",
    "mlp.norm": "post_attention_layernorm",
}
_OWN_NORMS: Modules = {"attention.norm": "ln_attn", "mlp.norm": "ln_mlp"}
_SHARED_NORM: Modules = {"block0.norm": "input_layernorm"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of FalconForCausalLM, or modelling_RW.py of the first falcon-7b and -40b."""
    reader = ConfigReader(config)
    hidden, bias = reader.integer("hidden_size", "n_embed"), reader.boolean("bias", default=False)
    # The code of RefinedWeb (40B) always uses the new decoder and has no option for it.
    is_new = reader.boolean(
        "new_decoder_architecture", default=config["model_type"] == "RefinedWeb"
    )
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=True)
    mlp = MLP(
        intermediate_size=reader.integer("ffn_hidden_size", default=4 * hidden),
        activation=reader.activation("activation", default="gelu"),
        gated=False,
        bias=bias,
    )
    layer, norms = _layer(reader, _attention(reader, hidden, bias, is_new), mlp, norm, is_new)
    layers = (layer,) * reader.integer("num_hidden_layers", "n_layer")
    return ModelSpec(
        model_type="falcon",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=_weight_rules(norms),
        max_positions=reader.integer("max_position_embeddings", default=2048),
        prefixes=("transformer.", ""),
        ignored=("*.rotary.inv_freq", "*.maybe_rotary.inv_freq"),
    )


def _attention(reader: ConfigReader, hidden: int, bias: bool, is_new: bool) -> Attention:
    num_heads = reader.integer("num_attention_heads", "n_head")
    head_dim = reader.divided("hidden_size", hidden, "num_attention_heads", num_heads)
    if is_new:
        num_kv_heads = reader.integer("num_kv_heads", "n_head_kv", default=num_heads)
        reader.divided("num_attention_heads", num_heads, "num_kv_heads", num_kv_heads)
    else:
        num_kv_heads = 1 if reader.boolean("multi_query", default=True) else num_heads
    alibi = reader.boolean("alibi", default=False)
    max_positions = reader.integer("max_position_embeddings", default=2048)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=None if alibi else read_rope(reader, head_dim=head_dim, max_positions=max_positions),
        alibi=alibi,
        alibi_scale=head_dim**-0.5,  # the bias is added before the scores are scaled
        qkv_bias=bias,
        output_bias=bias,
    )


def _layer(
    reader: ConfigReader, attention: Attention, mlp: MLP, norm: Norm, is_new: bool
) -> tuple[Layer, Modules]:
    """The layer and the names of its norms.

    Parallel mixers have one norm each or share one. Sequential mixers have one norm each.
    """
    if is_new and reader.integer("num_ln_in_parallel_attn", default=2) == 2:
        branches = (Branch(mixer=attention, norm=norm), Branch(mixer=mlp, norm=norm))
        return Layer(blocks=(Block(branches=branches),)), _OWN_NORMS
    if is_new or reader.boolean("parallel_attn", default=True):
        return parallel(attention, mlp, norm), _SHARED_NORM
    return sequential(attention, mlp, norm=norm), _SEQUENTIAL_NORMS


def _weight_rules(norms: Modules) -> tuple[WeightRule, ...]:
    return (
        module_rules(_FRAME)
        + layer_rules(_LAYER, norms | _MODULES)
        + layer_rules(_LAYER, _QKV, layout="grouped")
    )
