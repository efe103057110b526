"""The layers of gemma4_text."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import attention_of, rms_norm
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MLP, Attention, Block, Branch, Layer, LayerInput

__all__ = ["attention_of_kind", "build_layer", "input_size"]


def attention_of_kind(config: dict[str, Any], is_sliding: bool) -> Attention:
    """The attention of the layers with or without a window."""
    reader, kind = ConfigReader(config), "sliding_attention" if is_sliding else "full_attention"
    norm, bias = rms_norm(reader), reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader if is_sliding else _reader_of_full_attention(config),
        default_kv_heads=4,
        default_head_dim=256,
        rope_layer_type=kind,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norm,
    )
    return msgspec.structs.replace(
        attention,
        scale=1.0,
        window=reader.integer("sliding_window", default=512) if is_sliding else None,
        v_norm=msgspec.structs.replace(norm, weight=False),
    )


def _reader_of_full_attention(config: dict[str, Any]) -> ConfigReader:
    """The sizes of layers without a window. Configs of transformers 5 contain them per layer."""
    reader = ConfigReader(config)
    if reader.has("per_layer_config"):
        last = str(reader.integer("num_hidden_layers") - 1)
        reader.section("per_layer_config").section(last)
        return ConfigReader({**config, **config["per_layer_config"][last]})
    sizes = {"head_dim": reader.integer("global_head_dim", default=512)}
    if reader.boolean("attention_k_eq_v", default=False) and reader.has(
        "num_global_key_value_heads"
    ):
        sizes["num_key_value_heads"] = reader.integer("num_global_key_value_heads")
    return ConfigReader({**config, **sizes})


def build_layer(reader: ConfigReader, attention: Attention, source: int | None) -> Layer:
    """Build a layer. `source` is the layer whose keys the attention reads, or None."""
    norm, size = rms_norm(reader), input_size(reader)
    activation = reader.activation("hidden_activation", default="gelu_pytorch_tanh")
    is_wide = source is not None and reader.boolean("use_double_wide_mlp", default=False)
    width = reader.integer("intermediate_size", default=9216) * (2 if is_wide else 1)
    first, second = sequential(
        msgspec.structs.replace(attention, cache_of_layer=source),
        MLP(intermediate_size=width, activation=activation),
        norm=norm,
        post_norm=norm,
    ).blocks
    if not size:
        return Layer(blocks=(first, msgspec.structs.replace(second, output_scale=True)))
    mixer = LayerInput(size=size, activation=activation)
    third = Block(branches=(Branch(mixer=mixer, post_norm=norm),), output_scale=True)
    return Layer(blocks=(first, second, third))


def input_size(reader: ConfigReader) -> int:
    """Number of values of a layer's input. The number is 0 if the layers have no inputs."""
    if reader.is_null("hidden_size_per_layer_input"):
        return 0
    return reader.integer("hidden_size_per_layer_input", default=256, minimum=0)
