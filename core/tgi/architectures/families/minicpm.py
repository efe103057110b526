"""minicpm (MiniCPM 1, 2 and 4): llama with factors for embedding, residual and logits."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, decoder_spec, mlp_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import Embedding, Head, ModelSpec

__all__ = ["minicpm_head", "residual_scale", "spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MiniCPMForCausalLM from its config. The class is published with the
    models.
    """
    reader = ConfigReader(config)
    if reader.has("sparse_config"):
        raise reader.error("sparse_config", "must be null, because InfLLM v2 is not supported")
    if reader.integer("num_experts", default=0, minimum=0):
        raise reader.error("num_experts", "must be 0, because MiniCPM-MoE is not supported")
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(reader, qkv_bias=bias, output_bias=bias)
    layer = sequential(
        attention, mlp_of(reader), norm=rms_norm(reader), residual_scale=residual_scale(reader, 1.0)
    )
    return decoder_spec(
        reader,
        "minicpm",
        (layer,) * reader.integer("num_hidden_layers"),
        embedding=Embedding(scale=reader.number("scale_emb", default=1.0)),
        head=minicpm_head(reader, 1),
    )


def residual_scale(reader: ConfigReader, default: float) -> float:
    """The factor of each residual block. `default` is the default of `scale_depth`."""
    depth = reader.integer("num_hidden_layers") ** 0.5
    return (
        1.0
        if reader.is_null("scale_depth")
        else (reader.number("scale_depth", default=default) / depth)
    )


def minicpm_head(reader: ConfigReader, default: int) -> Head:
    """The head, whose inputs are divided by `hidden_size` / `dim_model_base`. `default` is the
    default of `dim_model_base`.
    """
    hidden = reader.integer("hidden_size")
    base = reader.optional_integer("dim_model_base", default=default)
    return Head(
        tied=reader.boolean("tie_word_embeddings", default=True),
        scale=1.0 if base is None else base / hidden,
    )
