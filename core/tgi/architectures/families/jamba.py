"""jamba: layers with a Mamba mixer or with attention, each followed by an MLP or a mixture of
experts. There is no rotary embedding.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.bamba import FRAME, MLP_MODULES, NORMS
from tgi.architectures.families.llama import (
    ATTENTION,
    LAYER,
    attention_of,
    decoder_spec,
    mlp_of,
    rms_norm,
)
from tgi.architectures.families.mamba import check_activation, mixer_rules
from tgi.architectures.layers import sequential
from tgi.architectures.spec import MixtureOfExperts, ModelSpec, Norm, Router, StateSpace, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_EXPERTS: Modules = {
    "moe.router": "feed_forward.router",
    **{
        f"moe.experts.{part}": f"feed_forward.experts.{{expert}}.{part}_proj"
        for part in ("gate", "up", "down")
    },
}
_INNER_NORMS: Modules = {
    f"state_space.{part}_norm": f"mamba.{part}_layernorm" for part in ("dt", "b", "c")
}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of JambaForCausalLM from its config."""
    reader = ConfigReader(config)
    norm, num_experts = rms_norm(reader), reader.integer("num_experts", default=16)
    attention = msgspec.structs.replace(attention_of(reader, default_kv_heads=8), rope=None)
    mamba, mlp = _mamba_of(reader, config, norm), mlp_of(reader)
    mixture = MixtureOfExperts(
        num_experts=num_experts,
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=mlp,
        router=Router(normalize=False),
    )
    num_layers = reader.integer("num_hidden_layers")
    has_attention = _periodic(reader, "attn_layer", num_layers, (8, 4))
    has_experts = _periodic(reader, "expert_layer", num_layers, (2, 1))
    layers = tuple(
        sequential(
            attention if has_attention[layer] else mamba,
            mixture if has_experts[layer] and num_experts > 1 else mlp,
            norm=norm,
        )
        for layer in range(num_layers)
    )
    return decoder_spec(reader, "jamba", layers, final_norm=norm, weights=_weight_rules())


def _periodic(
    reader: ConfigReader, name: str, num_layers: int, default: tuple[int, int]
) -> tuple[bool, ...]:
    """Return for each layer whether it has the special mixer. `default` is the default of the
    period and of the offset.
    """
    period = reader.integer(f"{name}_period", default=default[0])
    offset = reader.integer(f"{name}_offset", default=default[1], minimum=0)
    if offset >= period:
        raise reader.error(f"{name}_offset", f"must be less than `{name}_period` ({period})")
    return tuple(layer % period == offset for layer in range(num_layers))


def _mamba_of(reader: ConfigReader, config: dict[str, Any], norm: Norm) -> StateSpace:
    check_activation(reader)
    hidden = reader.integer("hidden_size")
    automatic = config.get("mamba_dt_rank", "auto") == "auto"
    return StateSpace(
        version=1,
        inner_size=reader.integer("mamba_expand", default=2) * hidden,
        state_size=reader.integer("mamba_d_state", default=16),
        conv_kernel=reader.integer("mamba_d_conv", default=4, minimum=2),
        dt_rank=math.ceil(hidden / 16) if automatic else reader.integer("mamba_dt_rank"),
        conv_bias=reader.boolean("mamba_conv_bias", default=True),
        proj_bias=reader.boolean("mamba_proj_bias", default=False),
        inner_norms=norm,
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    in_layers = NORMS | ATTENTION | MLP_MODULES | _EXPERTS | _INNER_NORMS
    return (
        *module_rules(FRAME),
        *layer_rules(LAYER, in_layers),
        *mixer_rules("mamba"),
    )
