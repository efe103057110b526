"""t5, flan-t5, mt5 and mt0: an encoder and a decoder that share their embedding.

Both have position biases, and their attention scores are not scaled.
"""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.spec import (
    MLP,
    Activation,
    Attention,
    Block,
    Branch,
    CrossAttention,
    Embedding,
    Head,
    Layer,
    Mixer,
    ModelSpec,
    Norm,
    RelativeBias,
    Stack,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, module_rules

__all__ = ["spec"]

_ENCODER = {"attention": "0.SelfAttention", "mlp": "1.DenseReluDense"}
_DECODER = {
    "attention": "0.SelfAttention",
    "cross_attention": "1.EncDecAttention",
    "mlp": "2.DenseReluDense",
}
_QKVO = {part: part for part in "qkvo"}

_FEED_FORWARDS: dict[str, tuple[Activation, bool]] = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-relu": ("relu", True),
    "gated-silu": ("silu", True),
}
"""Maps `feed_forward_proj` to the activation and to a flag that is true if the MLP is gated."""


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of T5ForConditionalGeneration or MT5ForConditionalGeneration."""
    reader = ConfigReader(config)
    hidden, num_layers = reader.integer("d_model"), reader.integer("num_layers")
    norm = Norm(kind="rms", eps=reader.number("layer_norm_epsilon", default=1e-6))
    mlp = _mlp(reader, default="gated-gelu" if config["model_type"] == "mt5" else "relu")
    heads, head_dim = reader.integer("num_heads"), reader.integer("d_kv")
    cross = CrossAttention(num_heads=heads, head_dim=head_dim, scale=1.0)

    def layer(*mixers: Mixer) -> Layer:
        return Layer(
            blocks=tuple(Block(branches=(Branch(mixer=mixer, norm=norm),)) for mixer in mixers)
        )

    encoder = (layer(_attention(reader, causal=False), mlp),) * num_layers
    decoder_layers = reader.integer("num_decoder_layers", default=num_layers)
    decoder = (layer(_attention(reader, causal=True), cross, mlp),) * decoder_layers
    tied = reader.boolean("tie_word_embeddings", default=True)
    return ModelSpec(
        model_type=config["model_type"],
        hidden_size=hidden,
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(
            Stack(kind="encoder", layers=encoder, final_norm=norm),
            Stack(kind="decoder", layers=decoder, final_norm=norm),
        ),
        head=Head(
            tied=tied,
            scale=hidden**-0.5 if _scales_output(reader, config["model_type"], tied) else 1.0,
        ),
        weights=_weight_rules(gated=mlp.gated),
        max_positions=0,
        # The first two tensors are copies of `shared.weight`. The third tensor is in the
        # checkpoints of the first T5 release, but no model uses it.
        ignored=(
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        ),
        decoder_start_token_id=reader.integer(
            "decoder_start_token_id", "pad_token_id", default=0, minimum=0
        ),
    )


def _scales_output(reader: ConfigReader, model_type: str, tied: bool) -> bool:
    """Whether the input of the head is scaled.

    The first T5 models, whose head is tied, scale it. T5 1.1, whose head is not tied, and mT5 do
    not.
    """
    return model_type == "t5" and reader.boolean("scale_decoder_outputs", default=tied)


def _attention(reader: ConfigReader, *, causal: bool) -> Attention:
    num_heads = reader.integer("num_heads")
    bias = RelativeBias(
        num_buckets=reader.integer("relative_attention_num_buckets", default=32, minimum=4),
        max_distance=reader.integer("relative_attention_max_distance", default=128),
        bidirectional=not causal,
    )
    head_dim = reader.integer("d_kv")
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        scale=1.0,
        relative_bias=bias,
        causal=causal,
    )


def _mlp(reader: ConfigReader, *, default: str) -> MLP:
    kind = reader.choice("feed_forward_proj", table=_FEED_FORWARDS, default=default)
    return MLP(intermediate_size=reader.integer("d_ff"), activation=kind[0], gated=kind[1])


def _weight_rules(*, gated: bool) -> tuple[WeightRule, ...]:
    modules: Modules = {"embedding": "shared", "head": "lm_head"}
    mlp = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
    for stack, mixers in {"encoder": _ENCODER, "decoder": _DECODER}.items():
        modules[f"{stack}.final_norm"] = f"{stack}.final_layer_norm"
        for tag, module in mixers.items():
            name, parameter = (
                f"{stack}.block.{{layer}}.layer.{module}",
                f"{stack}.layers.{{layer}}.{tag}",
            )
            modules[f"{parameter}.norm"] = f"{name.rpartition('.')[0]}.layer_norm"
            modules |= {
                f"{parameter}.{part}": f"{name}.{stored}"
                for stored, part in (mlp if tag == "mlp" else _QKVO).items()
            }
            if tag == "attention":
                modules[f"{parameter}.relative_bias"] = f"{name}.relative_attention_bias"
    return module_rules(modules)
