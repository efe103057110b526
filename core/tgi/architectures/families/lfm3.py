"""lfm3: lfm2 with norms after the mixers, a window in some layers, and a gate for each head."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.lfm2 import FRAME, MODULES
from tgi.architectures.families.llama import (
    ATTENTION,
    HEAD_NORMS,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
)
from tgi.architectures.layers import sequential
from tgi.architectures.spec import (
    Attention,
    Head,
    Mixer,
    ModelSpec,
    Norm,
    ShortConvolution,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_KINDS = ("conv", "full_attention", "sliding_attention")
_FULL_ROPE = {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1e6}
_ROPE = {"full_attention": _FULL_ROPE, "sliding_attention": {"rope_theta": 10_000.0}}
"""The default of Lfm3Config."""
_OWN_MODULES: Modules = {
    "attention.gate": "self_attn.gate_proj",
    **{f"{mixer}.post_norm": "post_operator_norm" for mixer in ("attention", "short_convolution")},
    "mlp.post_norm": "post_ffn_norm",
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Lfm3ForCausalLM from its config."""
    reader = ConfigReader({**config, "rope_parameters": config.get("rope_parameters") or _ROPE})
    norm = Norm(kind="rms", eps=reader.number("norm_eps", "rms_norm_eps", default=1e-5))
    num_layers = reader.integer("num_hidden_layers")
    kinds = reader.strings("layer_types", _KINDS, num_layers) or tuple(
        "full_attention" if layer % 4 == 2 else "conv" if layer % 4 or not layer else _KINDS[2]
        for layer in range(num_layers)
    )
    mixers: dict[str, Mixer] = {
        "conv": ShortConvolution(
            channels=reader.integer("hidden_size"),
            conv_kernel=reader.integer("conv_L_cache", default=7, minimum=2),
            bias=reader.boolean("conv_bias", default=False),
        ),
        "full_attention": _attention(reader, norm, "full_attention"),
        "sliding_attention": msgspec.structs.replace(
            _attention(reader, norm, "sliding_attention"),
            window=reader.optional_integer("sliding_window", default=256),
        ),
    }
    post_norm = norm if reader.boolean("use_sandwich_norm", default=True) else None
    layers = tuple(
        sequential(mixers[kind], mlp_of(reader), norm=norm, post_norm=post_norm) for kind in kinds
    )
    modules = MODULES | ATTENTION | HEAD_NORMS | _OWN_MODULES
    return decoder_spec(
        reader,
        "lfm3",
        layers,
        final_norm=norm,
        head=Head(tied=reader.boolean("tie_word_embeddings", default=True)),
        weights=(*module_rules(FRAME), *layer_rules(LAYER, modules)),
    )


def _attention(reader: ConfigReader, norm: Norm, kind: str) -> Attention:
    bias = reader.boolean("attention_bias", default=False)
    attention = attention_of(
        reader,
        default_kv_heads=4,
        default_head_dim=128,
        rope_layer_type=kind,
        qkv_bias=bias,
        output_bias=bias,
        head_norm=norm,
    )
    has_gate = reader.boolean("use_attention_gate", default=True)
    return msgspec.structs.replace(attention, output_gate=has_gate, output_gate_over="head")
