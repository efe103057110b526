"""mamba2: one state-space mixer per layer. Each head has one decay, and groups share B and C."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.mamba import LAYER, check_activation, mamba_spec, vector_rules
from tgi.architectures.spec import ModelSpec, Norm, StateSpace, WeightRule
from tgi.architectures.weight_names import Modules, layer_rules

__all__ = ["mixer_of", "mixer_rules", "read_dt_limit", "spec"]

_VECTORS = {"A_log": "a_log", "D": "skip", "dt_bias": "dt_bias"}


def mixer_rules(module: str) -> tuple[WeightRule, ...]:
    """The weight rules of a Mamba 2 mixer, whose name in the checkpoint is `module`."""
    modules: Modules = {
        tuple(
            f"state_space.in_{part}" for part in ("gate", "x", "b", "c", "dt")
        ): f"{module}.in_proj",
        tuple(f"state_space.conv_{part}" for part in ("x", "b", "c")): f"{module}.conv1d",
        "state_space.gated_norm": f"{module}.norm",
        "state_space.out": f"{module}.out_proj",
    }
    return layer_rules(LAYER, modules) + vector_rules(_VECTORS, module)


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Mamba2ForCausalLM from its config."""
    reader = ConfigReader(config)
    check_activation(reader)
    mixer = mixer_of(reader, config)
    inner = reader.integer("expand", default=2) * reader.integer("hidden_size")
    if inner != mixer.inner_size:
        raise reader.error(
            "num_heads",
            f"times `head_dim` ({mixer.head_dim}) must be `expand` times `hidden_size` ({inner})",
        )
    return mamba_spec(reader, "mamba2", mixer, mixer_rules("mixer"), tied=False)


def mixer_of(reader: ConfigReader, config: dict[str, Any]) -> StateSpace:
    """Read the mixer of mamba2 and nemotron_h. In nemotron_h, `head_dim` belongs to attention."""
    num_heads = reader.integer("mamba_num_heads", "num_heads", default=128)
    head_dim = reader.integer("mamba_head_dim", "head_dim", default=64)
    num_groups = reader.integer("n_groups", default=8)
    reader.divided("num_heads", num_heads, "n_groups", num_groups)
    return StateSpace(
        version=2,
        inner_size=num_heads * head_dim,
        state_size=reader.integer("ssm_state_size", "state_size", default=128),
        conv_kernel=reader.integer("conv_kernel", default=4, minimum=2),
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=num_groups,
        dt_limit=read_dt_limit(reader, config),
        conv_bias=reader.boolean("use_conv_bias", default=True),
        proj_bias=reader.boolean("use_bias", default=False),
        norm=Norm(kind="rms", eps=reader.number("layer_norm_epsilon", default=1e-5)),
    )


def read_dt_limit(reader: ConfigReader, config: dict[str, Any]) -> tuple[float, float] | None:
    """The bounds of the time step. The result is None if they have no effect.

    A config contains infinity as the JSON value `Infinity` or as `{"__float__": "Infinity"}`.
    """
    limits = config.get("time_step_limit")
    if limits is None:
        return None
    if not isinstance(limits, list) or len(limits) != 2:
        raise reader.error("time_step_limit", "must be a list of two numbers")
    low, high = (float("inf") if item == {"__float__": "Infinity"} else item for item in limits)
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise reader.error("time_step_limit", "must be a list of two numbers")
    return None if low <= 0 and high == float("inf") else (float(low), float(high))
