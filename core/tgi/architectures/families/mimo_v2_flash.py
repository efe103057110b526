"""mimo_v2_flash: glm4_moe without a shared expert, with a window in most layers.

Layers with a window have attention sinks, another rotary embedding and twice as many key heads. The
loader multiplies the weights of the values by a factor of the config.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.glm4_moe import mixture_of
from tgi.architectures.families.glm4_moe import weight_rules as glm4_rules
from tgi.architectures.families.llama import IGNORED, LAYER, attention_of, decoder_spec, mlp_of
from tgi.architectures.layers import dense_layers, sequential
from tgi.architectures.spec import Attention, ModelSpec, Norm, WeightRule

__all__ = ["spec"]

_PARTIAL = 0.334
_SINKS = WeightRule(
    name=f"{LAYER}.self_attn.attention_sink_bias",
    parameters=("decoder.layers.{layer}.attention.sinks",),
)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MiMoV2FlashForCausalLM from its config."""
    reader = ConfigReader(config | {"n_shared_experts": 0})
    num_layers = reader.integer("num_hidden_layers")
    norm = Norm(kind="rms", eps=reader.number("rms_norm_eps", "layernorm_epsilon", default=1e-5))
    full, sliding = _full_attention(reader), _sliding_attention(config, reader)
    mixture, mlp = mixture_of(reader, num_experts=256), mlp_of(reader)
    layers = tuple(
        sequential(sliding if slide else full, mlp if is_dense else mixture, norm=norm)
        for slide, is_dense in zip(
            _slides(reader, num_layers), _is_dense(reader, num_layers), strict=True
        )
    )
    weights = (*_scaled_rules(reader), _SINKS)
    result = decoder_spec(reader, "mimo_v2_flash", layers, final_norm=norm, weights=weights)
    # The tensors of the module `mtp` serve multi-token prediction.
    return msgspec.structs.replace(result, ignored=(*IGNORED, "*mtp.*"))


def _full_attention(reader: ConfigReader) -> Attention:
    attention = _attention(reader, "full_attention", theta=5_000_000.0)
    sinks = reader.boolean("add_full_attention_sink_bias", default=False)
    return msgspec.structs.replace(attention, sinks=sinks)


def _sliding_attention(config: dict[str, Any], reader: ConfigReader) -> Attention:
    num_kv_heads = reader.integer("num_key_value_heads", default=4)
    own = {
        "num_key_value_heads": reader.integer("swa_num_key_value_heads", default=2 * num_kv_heads),
        "rope_theta": reader.number("swa_rope_theta", default=10_000.0),
    }
    attention = _attention(ConfigReader(config | own), "sliding_attention", theta=10_000.0)
    window = reader.integer("sliding_window", default=129)
    if reader.has("sliding_window_size"):  # number of earlier tokens
        window = reader.integer("sliding_window_size") + 1
    sinks = reader.boolean("add_swa_attention_sink_bias", default=True)
    return msgspec.structs.replace(attention, window=window, sinks=sinks)


def _attention(reader: ConfigReader, kind: str, *, theta: float) -> Attention:
    attention = attention_of(
        reader,
        default_kv_heads=4,
        default_head_dim=192,
        default_theta=theta,
        default_partial=_PARTIAL,
        rope_layer_type=kind,
        qkv_bias=reader.boolean("attention_bias", default=False),
    )
    return msgspec.structs.replace(attention, v_head_dim=reader.integer("v_head_dim", default=128))


def _slides(reader: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    """Return for each layer whether it has a window. Published configs have a list of 0 and 1."""
    kinds = reader.strings("layer_types", ("full_attention", "sliding_attention"), num_layers)
    if kinds is not None:
        return tuple(kind == "sliding_attention" for kind in kinds)
    pattern = reader.integers("hybrid_layer_pattern") or tuple(
        int(layer > 0 and (layer + 1) % 6 > 0) for layer in range(num_layers)
    )
    return _flags(reader, "hybrid_layer_pattern", pattern, num_layers)


def _is_dense(reader: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    if reader.has("mlp_layer_types") or not reader.has("moe_layer_freq"):
        return dense_layers(reader, num_layers, default=1)
    sparse = reader.integers("moe_layer_freq")
    return tuple(not flag for flag in _flags(reader, "moe_layer_freq", sparse, num_layers))


def _flags(
    reader: ConfigReader, name: str, values: tuple[int, ...], num_layers: int
) -> tuple[bool, ...]:
    if len(values) != num_layers:
        raise reader.error(name, f"must have {num_layers} entries")
    return tuple(map(bool, values))


def _scaled_rules(reader: ConfigReader) -> tuple[WeightRule, ...]:
    scale = reader.optional_number("attention_value_scale", default=0.707) or 1.0
    return tuple(
        msgspec.structs.replace(rule, factors=(scale,)) if ".v_proj." in rule.name else rule
        for rule in glm4_rules()
    )
