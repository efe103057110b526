"""Decides if the `transformers` fallback supports a model of an unknown architecture.

A backend calls these functions before it imports torch, so this module imports no framework.
"""

from __future__ import annotations

from importlib.util import find_spec

from tgi.architectures import GenericSpec
from tgi.backend import EngineConfig

__all__ = ["refused_by_fallback", "slow_by_fallback"]


def refused_by_fallback(spec: GenericSpec, config: EngineConfig) -> tuple[str, ...]:
    """Return the reasons why the fallback cannot run this model.

    Only reasons that are known before loading are included. The result is empty if there are no
    such reasons.
    """
    name = f"the architecture `{spec.model_type}` is not built in"
    if find_spec("transformers") is None:
        return (
            (
                f"{name}, and `transformers`, which could run it, is not installed; install tgi"
                " with the extra `transformers`"
            ),
        )
    if spec.config.get("is_encoder_decoder"):
        return (f"{name}, and the fallback runs decoders only, not encoders",)
    if spec.config.get("quantization_config"):
        return (f"{name}, and the fallback runs unquantized checkpoints only",)
    if config.num_shard > 1:
        return (f"{name}, and the fallback runs on one device; use `--num-shard 1`",)
    return ()


def slow_by_fallback(spec: GenericSpec) -> str:
    """Return the reason why a model is slow in the fallback, for the log at startup."""
    return (
        f"the architecture `{spec.model_type}` is not built in: it runs with transformers'"
        " modelling code, one sequence after the other and without a prefix cache"
    )
