"""llama, and the parts that many families share: attention, MLP, norms and checkpoint names."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.layers import sequential
from tgi.architectures.rope import read_rope
from tgi.architectures.spec import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    ModelSpec,
    Norm,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = [
    "ATTENTION",
    "FRAME",
    "GATED_MLP",
    "HEAD_NORMS",
    "IGNORED",
    "LAYER",
    "PREFIXES",
    "PRE_NORMS",
    "attention_of",
    "decoder_spec",
    "mlp_of",
    "rms_norm",
    "spec",
    "weight_rules",
]

PREFIXES = ("model.", "")
"""Names have the prefix `model.` unless the checkpoint was saved from a model without a head."""

IGNORED = ("*.rotary_emb.inv_freq",)
"""Old checkpoints contain the rotary frequencies as a buffer."""

LAYER = "layers.{layer}"
"""The prefix of the names of a layer's tensors."""

FRAME: Modules = {"embedding": "embed_tokens", "decoder.final_norm": "norm", "head": "lm_head"}
ATTENTION: Modules = {f"attention.{part}": f"self_attn.{part}_proj" for part in "qkvo"}
HEAD_NORMS: Modules = {f"attention.{part}_norm": f"self_attn.{part}_norm" for part in "qk"}
GATED_MLP: Modules = {f"mlp.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
PRE_NORMS: Modules = {
    "attention.norm": "input_layernorm",
    "mlp.norm": "post_attention_layernorm",
    "moe.norm": "post_attention_layernorm",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of LlamaForCausalLM from its config."""
    reader = ConfigReader(config)
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias)
    layer = sequential(
        attention,
        mlp_of(reader, bias=reader.boolean("mlp_bias", default=False)),
        norm=rms_norm(reader),
    )
    return decoder_spec(reader, "llama", (layer,) * reader.integer("num_hidden_layers"))


def attention_of(
    reader: ConfigReader,
    *,
    default_heads: int | None = None,
    default_kv_heads: int | None = None,
    default_head_dim: int | None = None,
    default_theta: float = 10_000.0,
    default_partial: float = 1.0,
    interleaved: bool = False,
    rope_layer_type: str | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    head_norm: Norm | None = None,
) -> Attention:
    """Rotary attention over the full context. `head_norm` is applied to each query and key head."""
    hidden, num_heads = (
        reader.integer("hidden_size"),
        reader.integer("num_attention_heads", default=default_heads),
    )
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
    rope = read_rope(
        reader,
        head_dim=head_dim,
        max_positions=reader.integer("max_position_embeddings"),
        interleaved=interleaved,
        default_theta=default_theta,
        default_partial=default_partial,
        layer_type=rope_layer_type,
    )
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        rope=rope,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        q_norm=head_norm,
        k_norm=head_norm,
    )


def mlp_of(
    reader: ConfigReader,
    *,
    default_activation: str = "silu",
    gated: bool = True,
    bias: bool = False,
    size: str = "intermediate_size",
) -> MLP:
    """The MLP with the config's `hidden_act`. `size` is the field with its inner size."""
    return MLP(
        intermediate_size=reader.integer(size),
        activation=reader.activation("hidden_act", default=default_activation),
        gated=gated,
        bias=bias,
    )


def rms_norm(reader: ConfigReader, *, default_eps: float = 1e-6, unit_offset: bool = False) -> Norm:
    """The RMS norm with the config's `rms_norm_eps`."""
    return Norm(
        kind="rms", eps=reader.number("rms_norm_eps", default=default_eps), unit_offset=unit_offset
    )


def decoder_spec(
    reader: ConfigReader,
    model_type: str,
    layers: tuple[Layer, ...],
    *,
    final_norm: Norm | None = None,
    embedding: Embedding | None = None,
    head: Head | None = None,
    weights: tuple[WeightRule, ...] | None = None,
) -> ModelSpec:
    """Build a decoder whose config has llama's field names. The default of each part is llama's."""
    return ModelSpec(
        model_type=model_type,
        hidden_size=reader.integer("hidden_size"),
        vocab_size=reader.integer("vocab_size"),
        embedding=embedding or Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=final_norm or rms_norm(reader)),),
        head=head or Head(tied=reader.boolean("tie_word_embeddings", default=False)),
        weights=weights or weight_rules(),
        max_positions=reader.integer("max_position_embeddings"),
        prefixes=PREFIXES,
        ignored=IGNORED,
    )


def weight_rules() -> tuple[WeightRule, ...]:
    """The weight rules of llama and of families with the same tensor names."""
    return module_rules(FRAME) + layer_rules(LAYER, PRE_NORMS | ATTENTION | HEAD_NORMS | GATED_MLP)
