"""gpt2: learned positions, layer norms, one fused qkv matrix, every matrix stored [in, out]."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.grammar import (
    MLP,
    Attention,
    Block,
    Branch,
    Embedding,
    Head,
    Layer,
    LearnedPositions,
    ModelSpec,
    Norm,
    Stack,
    WeightRule,
)
from tgi.architectures.llama import linear_rules

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Source: GPT2LMHeadModel."""
    reader = ConfigReader(config)
    hidden, num_layers = reader.integer("n_embd", "hidden_size"), reader.integer("n_layer", "num_hidden_layers")
    max_positions = reader.integer("n_positions", "max_position_embeddings", default=1024)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_epsilon", default=1e-5), bias=True)
    mlp = MLP(
        intermediate_size=reader.integer("n_inner", default=4 * hidden),
        activation=reader.activation("activation_function", default="gelu_new"),
        gated=False,
        bias=True,
    )
    feed_forward = Block(branches=(Branch(mixer=mlp, norm=norm),))
    layers = tuple(
        Layer(blocks=(Block(branches=(Branch(mixer=_attention(reader, hidden, layer), norm=norm),)), feed_forward))
        for layer in range(num_layers)
    )
    return ModelSpec(
        model_type="gpt2",
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size", default=50257),
        embedding=Embedding(positions=LearnedPositions(num_positions=max_positions)),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=_weight_rules(),
        max_positions=max_positions,
        prefixes=("transformer.", ""),
        ignored=("*.attn.bias", "*.attn.masked_bias"),  # the causal mask, saved by old versions
    )


def _attention(reader: ConfigReader, hidden: int, layer: int) -> Attention:
    num_heads = reader.integer("n_head", "num_attention_heads")
    head_dim = reader.divided("n_embd", hidden, "n_head", num_heads)
    scale = head_dim**-0.5 if reader.boolean("scale_attn_weights", default=True) else 1.0
    if reader.boolean("scale_attn_by_inverse_layer_idx", default=False):
        scale /= layer + 1
    return Attention(num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, scale=scale, qkv_bias=True, output_bias=True)


def _weight_rules() -> tuple[WeightRule, ...]:
    layer, role = "h.{layer}", "decoder.layers.{layer}"
    rules = [
        WeightRule(name="wte.weight", roles=("embedding.weight",)),
        WeightRule(name="wpe.weight", roles=("embedding.positions.weight",)),
        WeightRule(name="lm_head.weight", roles=("head.weight",)),
        *linear_rules("ln_f", "decoder.final_norm"),
        *linear_rules(f"{layer}.ln_1", f"{role}.attention.norm"),
        *linear_rules(f"{layer}.ln_2", f"{role}.mlp.norm"),
    ]
    modules = {
        "attn.c_attn": ("attention.q", "attention.k", "attention.v"),
        "attn.c_proj": ("attention.o",),
        "mlp.c_fc": ("mlp.up",),
        "mlp.c_proj": ("mlp.down",),
    }
    for name, parts in modules.items():
        for kind in ("weight", "bias"):
            roles = tuple(f"{role}.{part}.{kind}" for part in parts)
            rules.append(WeightRule(name=f"{layer}.{name}.{kind}", roles=roles, transposed=kind == "weight"))
    return tuple(rules)
