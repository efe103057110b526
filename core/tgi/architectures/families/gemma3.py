"""gemma3: gemma2 with norms on each query and key head.

One in six layers has no window. Layers with and without a window have different rotary embeddings.
Only the text model of a multimodal checkpoint (`gemma3`) is read.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.gemma2 import gemma2_spec
from tgi.architectures.families.llama import PREFIXES, attention_of, rms_norm
from tgi.architectures.layers import sliding_layers
from tgi.architectures.positions import Rope
from tgi.architectures.rope import read_rope
from tgi.architectures.spec import Attention, ModelSpec

__all__ = ["spec"]

_DEFAULTS = {
    "hidden_size": 2304,
    "vocab_size": 262_208,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}
"""Defaults of Gemma3TextConfig, which published multimodal configs omit."""

_IMAGE_TENSORS = ("*vision_tower.*", "*multi_modal_projector.*")


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Gemma3ForCausalLM, or Gemma3ForConditionalGeneration without images."""
    multimodal = config["model_type"] == "gemma3"
    reader = ConfigReader(config)
    if multimodal:
        reader.section("text_config")
        reader = ConfigReader(_DEFAULTS | config["text_config"], "`text_config` of config.json")
    if reader.boolean("use_bidirectional_attention", default=False):
        raise reader.error(
            "use_bidirectional_attention", "must be false for a model that generates"
        )
    full, sliding = _attention(reader, "full_attention"), _attention(reader, "sliding_attention")
    slides = sliding_layers(reader, reader.integer("num_hidden_layers"), pattern=6)
    head_cap = reader.optional_number("final_logit_softcapping", default=None)
    text = gemma2_spec(
        reader,
        config["model_type"],
        tuple(sliding if slide else full for slide in slides),
        head_cap,
    )
    if not multimodal:
        return text
    # Published checkpoints name the text model `language_model.model.`. Checkpoints that
    # transformers 5 saved have the first prefix.
    return msgspec.structs.replace(
        text,
        prefixes=("model.language_model.", "language_model.model.", "language_model.", *PREFIXES),
        ignored=text.ignored + _IMAGE_TENSORS,
    )


def _attention(reader: ConfigReader, kind: str) -> Attention:
    norm, bias = rms_norm(reader, unit_offset=True), reader.boolean("attention_bias", default=False)
    plain = attention_of(
        reader,
        default_heads=8,
        default_kv_heads=4,
        default_head_dim=256,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norm,
        rope_layer_type=kind,
        default_theta=1_000_000.0,
    )
    attention = msgspec.structs.replace(
        plain, scale=reader.number("query_pre_attn_scalar", default=256.0) ** -0.5
    )
    if kind == "full_attention":
        return attention
    window = reader.optional_integer("sliding_window", default=4096)
    return msgspec.structs.replace(
        attention, window=window, rope=_local_rope(reader, attention.head_dim)
    )


def _local_rope(reader: ConfigReader, head_dim: int) -> Rope:
    """Layers with a window have their own rotary embedding, without the model's scaling."""
    theta = reader.number("rope_local_base_freq", default=10_000.0)
    if reader.has("rope_parameters") and reader.section("rope_parameters").nested:
        max_positions = reader.integer("max_position_embeddings")
        return read_rope(
            reader,
            head_dim=head_dim,
            max_positions=max_positions,
            default_theta=theta,
            layer_type="sliding_attention",
        )
    return Rope(theta=theta, rotary_dim=head_dim)
