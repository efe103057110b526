"""llama4_text: attention in chunks with a rotary embedding, and full attention without one.

Some or all layers have a mixture of experts with a shared expert. The weights of the experts
multiply their inputs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    LAYER,
    PRE_NORMS,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.layers import rotary_layers, sequential
from tgi.architectures.positions import PositionScale
from tgi.architectures.spec import (
    Attention,
    MixtureOfExperts,
    ModelSpec,
    Router,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules, stacked_expert_rules

__all__ = ["spec"]

_PARTS = ("gate", "up", "down")
_FEED_FORWARD: Modules = {
    "moe.router": "feed_forward.router",
    **{f"moe.shared.{part}": f"feed_forward.shared_expert.{part}_proj" for part in _PARTS},
    **{f"mlp.{part}": f"feed_forward.{part}_proj" for part in _PARTS},
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Llama4ForCausalLM from its config."""
    reader, norm = ConfigReader(config), rms_norm(ConfigReader(config), default_eps=1e-5)
    num_layers = reader.integer("num_hidden_layers")
    expert = mlp_of(reader)
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=16),
        experts_per_token=reader.integer("num_experts_per_tok", default=1),
        expert=expert,
        router=Router(score="sigmoid", top_k_first=True, normalize=False),
        shared=expert,
        scale_inputs=True,
    )
    step = reader.integer("interleave_moe_layer_step", default=1)
    has_list = reader.has("moe_layers")
    sparse = reader.integers("moe_layers") if has_list else range(step - 1, num_layers, step)
    dense, scale = mlp_of(reader, size="intermediate_size_mlp"), _position_scale(config, reader)
    layers = tuple(
        sequential(attention, mixture if layer in sparse else dense, norm=norm)
        for layer, attention in enumerate(_attentions(reader, num_layers, scale))
    )
    weights = (
        *module_rules(FRAME),
        *layer_rules(LAYER, PRE_NORMS | ATTENTION | _FEED_FORWARD),
        *stacked_expert_rules(f"{LAYER}.feed_forward.experts", transposed=True),
    )
    return decoder_spec(reader, "llama4_text", layers, final_norm=norm, weights=weights)


def _attentions(
    reader: ConfigReader, num_layers: int, position_scale: PositionScale | None
) -> tuple[Attention, ...]:
    """The attention of each layer. `position_scale` applies to layers without rotary embedding."""
    rotates = rotary_layers(reader, num_layers)
    kinds = reader.strings("layer_types", ("full_attention", "chunked_attention"), num_layers)
    chunked = rotates if kinds is None else [kind == "chunked_attention" for kind in kinds]
    bias = reader.boolean("attention_bias", default=False)
    head_norm = msgspec.structs.replace(rms_norm(reader, default_eps=1e-5), weight=False)
    plain = attention_of(
        reader,
        default_kv_heads=8,
        default_head_dim=128,
        default_theta=500_000.0,
        interleaved=True,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=head_norm if reader.boolean("use_qk_norm", default=True) else None,
    )
    rotary = msgspec.structs.replace(plain, qk_norm_after_rope=True)
    unrotated = msgspec.structs.replace(
        plain, rope=None, q_norm=None, k_norm=None, position_scale=position_scale
    )
    chunk = reader.integer("attention_chunk_size", default=8192)
    return tuple(
        msgspec.structs.replace(
            rotary if rotates_layer else unrotated, chunk=chunk if is_chunked else None
        )
        for rotates_layer, is_chunked in zip(rotates, chunked, strict=True)
    )


def _position_scale(config: dict[str, Any], reader: ConfigReader) -> PositionScale | None:
    is_tuned = config.get("attn_temperature_tuning", True)
    if not isinstance(is_tuned, int):  # old configs contain the number 4 in place of true
        raise reader.error("attn_temperature_tuning", "must be true or false")
    if not is_tuned:
        return None
    return PositionScale(
        beta=reader.number("attn_scale", default=0.1),
        period=reader.integer("floor_scale", default=8192),
        offset=1,
    )
