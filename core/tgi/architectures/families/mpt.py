"""mpt: ALiBi, layer norms, and a fused qkv matrix. Most models have no biases."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MLP, Attention, Embedding, Head, ModelSpec, Norm, Stack
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_LAYER = "blocks.{layer}"
_FRAME: Modules = {"embedding": "wte", "decoder.final_norm": "norm_f", "head": "lm_head"}
_MODULES: Modules = {
    "attention.norm": "norm_1",
    "mlp.norm": "norm_2",
    ("attention.q", "attention.k", "attention.v"): "attn.Wqkv",
    "attention.o": "attn.out_proj",
    "mlp.up": "ffn.up_proj",
    "mlp.down": "ffn.down_proj",
}
_ALIBI_ONLY = {"alibi": True, "prefix_lm": False, "qk_ln": False}
"""Options of `attn_config` that have this value in all published checkpoints of this layout."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of llm-foundry's MPTForCausalLM, or MptForCausalLM of transformers."""
    reader = ConfigReader(config)
    hidden, bias = (
        reader.integer("d_model", "hidden_size"),
        not reader.boolean("no_bias", default=True),
    )
    reader.choice(
        "norm_type",
        table=dict.fromkeys(("layernorm", "low_precision_layernorm")),
        default="layernorm",
    )
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=bias)
    mlp = MLP(
        intermediate_size=int(hidden * reader.number("expansion_ratio", default=4.0)),
        activation="gelu",
        gated=False,
        bias=bias,
    )
    layer = sequential(_attention(reader, hidden, bias), mlp, norm=norm)
    layers = (layer,) * reader.integer("n_layers", "num_hidden_layers")
    return ModelSpec(
        model_type="mpt",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(
            tied=reader.boolean("tie_word_embeddings", default=True),
            scale=_logit_scale(reader, hidden),
        ),
        weights=module_rules(_FRAME) + layer_rules(_LAYER, _MODULES),
        max_positions=reader.integer("max_seq_len"),
        prefixes=("transformer.", ""),
    )


def _attention(reader: ConfigReader, hidden: int, bias: bool) -> Attention:
    options = reader.section("attn_config") if reader.has("attn_config") else ConfigReader({})
    for name, only in _ALIBI_ONLY.items():
        if options.boolean(name, default=only) != only:
            raise options.error(name, f"must be {str(only).lower()}")
    num_heads = reader.integer("n_heads", "num_attention_heads")
    head_dim = reader.divided("d_model", hidden, "n_heads", num_heads)
    kinds = {"multihead_attention": num_heads, "multiquery_attention": 1}
    return Attention(
        num_heads=num_heads,
        num_kv_heads=options.choice("attn_type", table=kinds, default="multihead_attention"),
        head_dim=head_dim,
        scale=options.number("softmax_scale", default=head_dim**-0.5),
        alibi=True,
        alibi_bias_max=options.number("alibi_bias_max", default=8.0),
        qkv_bias=bias,
        output_bias=bias,
        clip_qkv=options.number("clip_qkv", default=0.0) or None,
    )


def _logit_scale(reader: ConfigReader, hidden: int) -> float:
    if reader.is_string("logit_scale"):
        return reader.choice("logit_scale", table={"inv_sqrt_d_model": float(hidden**-0.5)})
    return reader.number("logit_scale", default=1.0)
