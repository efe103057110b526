"""gemma: llama with wide heads, norms whose weight is stored minus 1, and scaled embeddings."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MLP, Activation, Embedding, Head, ModelSpec

__all__ = ["embedding_of", "spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of GemmaForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, bias = rms_norm(reader, unit_offset=True), reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader, default_kv_heads=16, default_head_dim=256, qkv_bias=bias, output_bias=bias
    )
    mlp = MLP(intermediate_size=reader.integer("intermediate_size"), activation=_activation(reader))
    return decoder_spec(
        reader,
        "gemma",
        (sequential(attention, mlp, norm=norm),) * reader.integer("num_hidden_layers"),
        final_norm=norm,
        embedding=embedding_of(reader),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
    )


def embedding_of(reader: ConfigReader) -> Embedding:
    """Token vectors, multiplied by the square root of the hidden size."""
    return Embedding(scale=float(reader.integer("hidden_size") ** 0.5))


def _activation(reader: ConfigReader) -> Activation:
    """Configs of the first release contain `gelu`, but the models were trained with `gelu_tanh`."""
    activation = reader.activation("hidden_act", "hidden_activation", default="gelu_pytorch_tanh")
    return "gelu_tanh" if activation == "gelu" else activation
