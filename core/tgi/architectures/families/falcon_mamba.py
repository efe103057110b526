"""falcon_mamba: mamba with norms without weights for the time step, B and C."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.families.mamba import mamba_spec, mixer_of, mixer_rules
from tgi.architectures.spec import ModelSpec, Norm

__all__ = ["spec"]


def spec(config: dict[str, Any]) -> ModelSpec:
    """Build the spec of FalconMambaForCausalLM from its config."""
    reader = ConfigReader(config)
    norm = Norm(kind="rms", eps=reader.number("mixer_rms_eps", default=1e-6), weight=False)
    mixer = msgspec.structs.replace(mixer_of(reader, config), inner_norms=norm)
    return mamba_spec(reader, "falcon_mamba", mixer, mixer_rules("mixer"), tied=True)
