"""minimax (MiniMax-Text-01): layers with lightning attention or with attention, and experts.

The residual is the normalised input of each block, multiplied by a factor.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.llama import (
    ATTENTION,
    FRAME,
    IGNORED,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.families.mixtral import EXPERTS
from tgi.architectures.spec import (
    Block,
    Branch,
    Layer,
    LightningAttention,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Router,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_KINDS = ("full_attention", "linear_attention")
_MODULES: Modules = {
    "block0.norm": "input_layernorm",
    "block1.norm": "post_attention_layernorm",
    "lightning_attention.output_norm": "self_attn.norm",
    "lightning_attention.out": "self_attn.out_proj",
    "lightning_attention.gate": "self_attn.output_gate",
}
_BY_HEAD: Modules = {tuple(f"lightning_attention.{part}" for part in "qkv"): "self_attn.qkv_proj"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MiniMaxForCausalLM from its config."""
    reader, num_layers = ConfigReader(config), ConfigReader(config).integer("num_hidden_layers")
    kinds = reader.strings("layer_types", _KINDS, num_layers) or tuple(
        _KINDS[layer % 2] for layer in range(num_layers)
    )
    mixture = MixtureOfExperts(
        num_experts=reader.integer("num_local_experts", default=8),
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=mlp_of(reader),
        router=Router(),
    )
    full = msgspec.structs.replace(
        attention_of(reader, default_kv_heads=8, default_theta=1_000_000.0),
        window=reader.optional_integer("sliding_window", default=None),
    )
    second = _block(reader, mixture, "mlp")
    layers = tuple(
        Layer(
            blocks=(
                _block(reader, full, "full_attn")
                if kind == "full_attention"
                else _block(reader, _lightning_attention(reader, layer, num_layers), "linear_attn"),
                second,
            )
        )
        for layer, kind in enumerate(kinds)
    )
    weights = (
        *module_rules(FRAME),
        *layer_rules(LAYER, ATTENTION | EXPERTS | _MODULES),
        *layer_rules(LAYER, _BY_HEAD, layout="by_head"),
    )
    norm = rms_norm(reader, default_eps=1e-5)
    result = decoder_spec(reader, "minimax", layers, final_norm=norm, weights=weights)
    # The decays are computed from the config.
    unused = ("*.self_attn.slope_rate", "*.self_attn.*_decay")
    return msgspec.structs.replace(result, ignored=(*IGNORED, *unused))


def _block(reader: ConfigReader, mixer: Mixer, name: str) -> Block:
    return Block(
        branches=(Branch(mixer=mixer),),
        norm=rms_norm(reader, default_eps=1e-5),
        residual_from_norm=True,
        input_scale=reader.number(f"{name}_alpha_factor", default=1.0),
        residual_scale=reader.number(f"{name}_beta_factor", default=1.0),
    )


def _lightning_attention(reader: ConfigReader, layer: int, num_layers: int) -> LightningAttention:
    """Later layers have slower decays."""
    attention = attention_of(reader, default_kv_heads=8)
    return LightningAttention(
        num_heads=attention.num_heads,
        head_dim=attention.head_dim,
        activation=reader.activation("hidden_act", default="silu"),
        decay_scale=1 - layer / (num_layers - 1 + 1e-5) + 1e-5,
        norm=Norm(kind="rms", eps=1e-6),  # the code ignores the value in the config
    )
