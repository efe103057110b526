"""mamba: one state-space mixer per layer. Each channel has its own decays and state."""

from __future__ import annotations

import math
from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.spec import (
    Block,
    Branch,
    Embedding,
    Head,
    Layer,
    ModelSpec,
    Norm,
    Stack,
    StateSpace,
    WeightRule,
)
from tgi.architectures.weight_names import Modules, layer_rules, module_rules

__all__ = [
    "FRAME",
    "LAYER",
    "check_activation",
    "mamba_spec",
    "mixer_of",
    "mixer_rules",
    "spec",
    "vector_rules",
]

PREFIXES = ("backbone.", "")
LAYER = "layers.{layer}"
FRAME: Modules = {"embedding": "embeddings", "decoder.final_norm": "norm_f", "head": "lm_head"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of MambaForCausalLM from its config."""
    reader = ConfigReader(config)
    return mamba_spec(reader, "mamba", mixer_of(reader, config), mixer_rules("mixer"), tied=True)


def mixer_of(reader: ConfigReader, config: dict[str, Any]) -> StateSpace:
    """Read the mixer of mamba and falcon_mamba."""
    check_activation(reader)
    hidden = reader.integer("hidden_size")
    automatic = config.get("time_step_rank", "auto") == "auto"
    return StateSpace(
        version=1,
        inner_size=reader.integer(
            "intermediate_size", default=reader.integer("expand", default=2) * hidden
        ),
        state_size=reader.integer("state_size", default=16),
        conv_kernel=reader.integer("conv_kernel", default=4, minimum=2),
        dt_rank=math.ceil(hidden / 16) if automatic else reader.integer("time_step_rank"),
        conv_bias=reader.boolean("use_conv_bias", default=True),
        proj_bias=reader.boolean("use_bias", default=False),
    )


def mixer_rules(module: str) -> tuple[WeightRule, ...]:
    """The weight rules of a Mamba mixer, whose name in the checkpoint is `module`."""
    modules: Modules = {
        ("state_space.in_x", "state_space.in_gate"): f"{module}.in_proj",
        "state_space.conv_x": f"{module}.conv1d",
        "state_space.x_proj": f"{module}.x_proj",
        "state_space.dt": f"{module}.dt_proj",
        "state_space.out": f"{module}.out_proj",
    }
    return layer_rules(LAYER, modules) + vector_rules({"A_log": "a_log", "D": "skip"}, module)


def mamba_spec(
    reader: ConfigReader,
    model_type: str,
    mixer: StateSpace,
    weights: tuple[WeightRule, ...],
    *,
    tied: bool,
) -> ModelSpec:
    """Build a stack with one mixer per layer.

    `weights` are the rules of the mixer. `tied` is the default for a tied head.
    """
    norm = Norm(kind="rms", eps=reader.number("layer_norm_epsilon", default=1e-5))
    layer = Layer(blocks=(Block(branches=(Branch(mixer=mixer, norm=norm),)),))
    layers = (layer,) * reader.integer("num_hidden_layers")
    return ModelSpec(
        model_type=model_type,
        hidden_size=reader.integer("hidden_size"),
        vocab_size=reader.integer("vocab_size"),
        embedding=Embedding(),
        stacks=(Stack(kind="decoder", layers=layers, final_norm=norm),),
        head=Head(tied=reader.boolean("tie_word_embeddings", default=tied)),
        weights=module_rules(FRAME) + layer_rules(LAYER, {"state_space.norm": "norm"}) + weights,
        max_positions=0,
        prefixes=PREFIXES,
    )


def check_activation(reader: ConfigReader) -> None:
    """Raise `ModelError` unless the mixer's activation is silu."""
    reader.choice("hidden_act", table={"silu": None, "swish": None}, default="silu")


def vector_rules(vectors: dict[str, str], module: str = "mixer") -> tuple[WeightRule, ...]:
    """Build the rules of tensors that are neither weight nor bias.

    `vectors` maps a tensor's name in `module` to the last part of its parameter name.
    """
    return tuple(
        WeightRule(
            name=f"{LAYER}.{module}.{name}",
            parameters=(f"decoder.layers.{{layer}}.state_space.{part}",),
        )
        for name, part in vectors.items()
    )
