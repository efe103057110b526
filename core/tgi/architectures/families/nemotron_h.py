"""nemotron_h: each layer has one mixer: Mamba 2, attention without a rotary embedding, an MLP or a
mixture of experts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.deepseek_v3 import sigmoid_router
from tgi.architectures.families.llama import attention_of, decoder_spec
from tgi.architectures.families.mamba import FRAME, LAYER
from tgi.architectures.families.mamba2 import mixer_of, mixer_rules
from tgi.architectures.generic import generic_spec
from tgi.architectures.layers import FeedForward
from tgi.architectures.spec import (
    MLP,
    Block,
    Branch,
    GenericSpec,
    Layer,
    Mixer,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = ["spec"]

_KINDS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_NAMES = {"linear_attention": "mamba", "full_attention": "attention"}
_NORMS: Modules = {f"{tag}.norm": "norm" for tag in ("state_space", "attention", "mlp", "moe")}
_MODULES: Modules = {
    **{f"attention.{part}": f"mixer.{part}_proj" for part in "qkvo"},
    **{f"mlp.{part}": f"mixer.{part}_proj" for part in ("up", "down")},
    "moe.router": "mixer.gate",
    **{f"moe.experts.{part}": f"mixer.experts.{{expert}}.{part}_proj" for part in ("up", "down")},
    **{f"moe.shared.{part}": f"mixer.shared_experts.{part}_proj" for part in ("up", "down")},
}
_CORRECTION = WeightRule(
    name=f"{LAYER}.mixer.gate.e_score_correction_bias",
    parameters=("decoder.layers.{layer}.moe.router.correction",),
)


def spec(config: dict[str, Any]) -> ModelSpec | GenericSpec:
    """Build the spec of NemotronHForCausalLM from its config.

    The result is a `GenericSpec` if the experts have a latent input.
    """
    reader, kinds = ConfigReader(config), _layer_kinds(ConfigReader(config), config)
    if "moe" in kinds and reader.has("moe_latent_size"):
        return generic_spec(config)
    norm = Norm(kind="rms", eps=reader.number("layer_norm_epsilon", default=1e-5))
    mixers = {kind: _mixer(reader, config, kind) for kind in set(kinds)}
    layers = tuple(
        Layer(blocks=(Block(branches=(Branch(mixer=mixers[kind], norm=norm),)),)) for kind in kinds
    )
    result = decoder_spec(reader, "nemotron_h", layers, final_norm=norm, weights=_weight_rules())
    return msgspec.structs.replace(result, prefixes=("backbone.", "model.", ""), ignored=("mtp.*",))


def _layer_kinds(reader: ConfigReader, config: dict[str, Any]) -> tuple[str, ...]:
    """The kind of each layer, from a list or from a string with one character per layer."""
    name = next((name for name in ("layers_block_type", "layer_types") if reader.has(name)), None)
    if name is not None:
        length = max(1, len(config[name])) if isinstance(config[name], list) else 1
        kinds = reader.strings(name, (*_NAMES, *_KINDS.values()), length) or ()
        return tuple(_NAMES.get(kind, kind) for kind in kinds)
    pattern = reader.text("hybrid_override_pattern")
    if not pattern or set(pattern) - set(_KINDS):
        raise reader.error(
            "hybrid_override_pattern", f"must consist of the characters {' '.join(_KINDS)}"
        )
    return tuple(_KINDS[character] for character in pattern)


def _mixer(reader: ConfigReader, config: dict[str, Any], kind: str) -> Mixer:
    if kind == "attention":
        attention = attention_of(reader, default_kv_heads=8, default_head_dim=128)
        return msgspec.structs.replace(attention, rope=None)
    if kind != "mamba":
        return _feed_forward(reader, kind)
    reader.choice("mamba_hidden_act", table={"silu": None, "swish": None}, default="silu")
    return mixer_of(reader, config)


def _feed_forward(reader: ConfigReader, kind: str) -> FeedForward:
    mlp = MLP(
        intermediate_size=reader.integer("intermediate_size", default=21504),
        activation=reader.activation("mlp_hidden_act", default="relu2"),
        gated=False,
        bias=reader.boolean("mlp_bias", default=False),
    )
    if kind == "mlp":
        return mlp
    size, shared = (
        reader.integer(name, default=7688)
        for name in ("moe_intermediate_size", "moe_shared_expert_intermediate_size")
    )
    return MixtureOfExperts(
        num_experts=reader.integer("n_routed_experts", default=8),
        experts_per_token=reader.integer("num_experts_per_tok", default=2),
        expert=msgspec.structs.replace(mlp, intermediate_size=size, bias=False),
        router=sigmoid_router(reader, scale=1.0, num_groups=1, groups_per_token=1),
        shared=msgspec.structs.replace(mlp, intermediate_size=shared),
    )


def _weight_rules() -> tuple[WeightRule, ...]:
    return (
        *module_rules(FRAME),
        *layer_rules(LAYER, _NORMS | _MODULES),
        *mixer_rules("mixer"),
        _CORRECTION,
    )
