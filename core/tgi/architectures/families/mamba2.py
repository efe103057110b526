"""mamba2: one state-space mixer per layer. Each head has one decay, and groups share B and C."""

from __future__ import annotations

from typing import Any

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.mamba import LAYER, check_activation, mamba_spec, vector_rules
from tgi.architectures.spec import ModelSpec, Norm, StateSpace
from tgi.architectures.weight_names import Modules, layer_rules

__all__ = ["spec"]

_MODULES: Modules = {
    "state_space.norm": "norm",
    tuple(f"state_space.in_{part}" for part in ("gate", "x", "b", "c", "dt")): "mixer.in_proj",
    tuple(f"state_space.conv_{part}" for part in ("x", "b", "c")): "mixer.conv1d",
    "state_space.gated_norm": "mixer.norm",
    "state_space.out": "mixer.out_proj",
}
_VECTORS = {"A_log": "a_log", "D": "skip", "dt_bias": "dt_bias"}


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of Mamba2ForCausalLM from its config."""
    reader = ConfigReader(config)
    check_activation(reader)
    num_heads, head_dim = (
        reader.integer("num_heads", default=128),
        reader.integer("head_dim", default=64),
    )
    inner = reader.integer("expand", default=2) * reader.integer("hidden_size")
    if inner != num_heads * head_dim:
        raise reader.error(
            "num_heads",
            f"times `head_dim` ({head_dim}) must be `expand` times `hidden_size` ({inner})",
        )
    num_groups = reader.integer("n_groups", default=8)
    reader.divided("num_heads", num_heads, "n_groups", num_groups)
    mixer = StateSpace(
        version=2,
        inner_size=inner,
        state_size=reader.integer("state_size", default=128),
        conv_kernel=reader.integer("conv_kernel", default=4, minimum=2),
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=num_groups,
        dt_limit=_dt_limit(reader, config),
        conv_bias=reader.boolean("use_conv_bias", default=True),
        proj_bias=reader.boolean("use_bias", default=False),
        norm=Norm(kind="rms", eps=reader.number("layer_norm_epsilon", default=1e-5)),
    )
    return mamba_spec(
        reader, "mamba2", mixer, layer_rules(LAYER, _MODULES) + vector_rules(_VECTORS), tied=False
    )


def _dt_limit(reader: ConfigReader, config: dict[str, Any]) -> tuple[float, float] | None:
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
