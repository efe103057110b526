"""llama, and the parts its descendants share: pre-norm attention and gated MLP with RMS norms."""

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
    ModelSpec,
    Norm,
    Stack,
    WeightRule,
)
from tgi.architectures.rope import read_rope

__all__ = ["IGNORED", "PREFIXES", "attention_of", "decoder_spec", "linear_rules", "spec", "weight_rules"]

PREFIXES = ("model.", "")
"""`model.` is there unless the checkpoint was saved from the model without its head."""

IGNORED = ("*.rotary_emb.inv_freq",)
"""Old checkpoints carry the rotary frequencies as a buffer."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Source: LlamaForCausalLM."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias)
    layers = reader.integer("num_hidden_layers")
    return decoder_spec(reader, "llama", (attention,) * layers, mlp_bias=reader.boolean("mlp_bias", default=False))


def attention_of(
    reader: ConfigReader,
    *,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    head_norm: bool = False,
) -> Attention:
    """Rotary attention over the full context. `head_norm`: RMS norms on each query and key head."""
    hidden, num_heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    if default_kv_heads is None or reader.is_null("num_key_value_heads"):
        default_kv_heads = num_heads
    num_kv_heads = reader.integer("num_key_value_heads", default=default_kv_heads)
    reader.divided("num_attention_heads", num_heads, "num_key_value_heads", num_kv_heads)
    if reader.has("head_dim"):
        head_dim = reader.integer("head_dim")
    elif default_head_dim is not None and not reader.is_null("head_dim"):
        head_dim = default_head_dim
    else:
        head_dim = reader.divided("hidden_size", hidden, "num_attention_heads", num_heads)
    norm = _rms_norm(reader) if head_norm else None
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=read_rope(reader, head_dim=head_dim, max_positions=_max_positions(reader)),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        q_norm=norm,
        k_norm=norm,
    )


def decoder_spec(reader: ConfigReader, model_type: str, attentions: tuple[Attention, ...], mlp_bias: bool = False) -> ModelSpec:
    """A llama-shaped decoder with one attention per layer."""
    norm = _rms_norm(reader)
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size"),
        activation=reader.activation("hidden_act", default="silu"),
        bias=mlp_bias,
    )
    feed_forward = Block(branches=(Branch(mixer=mlp, norm=norm),))
    layers = tuple(Layer(blocks=(Block(branches=(Branch(mixer=item, norm=norm),)), feed_forward)) for item in attentions)
    return ModelSpec(
        model_type=model_type,
        hidden_size=reader.integer("hidden_size"),
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=False)),
        weights=weight_rules(),
        max_positions=_max_positions(reader),
        prefixes=PREFIXES,
        ignored=IGNORED,
    )


def weight_rules() -> tuple[WeightRule, ...]:
    """The checkpoint names of llama, mistral, qwen2 and qwen3."""
    layer, role = "layers.{layer}", "decoder.layers.{layer}"
    rules = [
        WeightRule(name="embed_tokens.weight", roles=("embedding.weight",)),
        WeightRule(name=f"{layer}.input_layernorm.weight", roles=(f"{role}.attention.norm.weight",)),
        WeightRule(name=f"{layer}.post_attention_layernorm.weight", roles=(f"{role}.mlp.norm.weight",)),
        WeightRule(name="norm.weight", roles=("decoder.final_norm.weight",)),
        WeightRule(name="lm_head.weight", roles=("head.weight",)),
    ]
    for part in ("q", "k", "v", "o"):
        rules += linear_rules(f"{layer}.self_attn.{part}_proj", f"{role}.attention.{part}")
    for part in ("q_norm", "k_norm"):
        rules += linear_rules(f"{layer}.self_attn.{part}", f"{role}.attention.{part}")
    for part in ("gate", "up", "down"):
        rules += linear_rules(f"{layer}.mlp.{part}_proj", f"{role}.mlp.{part}")
    return tuple(rules)


def linear_rules(name: str, role: str) -> list[WeightRule]:
    """The rules of one module's weight and bias; a bias that the model does not have is passed over."""
    return [WeightRule(name=f"{name}.{kind}", roles=(f"{role}.{kind}",)) for kind in ("weight", "bias")]


def _rms_norm(reader: ConfigReader) -> Norm:
    return Norm(kind="rms", eps=reader.number("rms_norm_eps", default=1e-6))


def _max_positions(reader: ConfigReader) -> int:
    return reader.integer("max_position_embeddings")
