"""Decides if the `transformers` fallback supports a model of an unknown architecture.

A backend calls these functions before it imports torch, so this module imports no framework.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import EngineConfig
from tgi.worker.checkpoint import check_checkpoint

__all__ = ["check_model", "refused_by_fallback", "slow_by_fallback"]


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


def check_model(spec: ModelSpec | GenericSpec, config: EngineConfig) -> None:
    """Check the files of a model as the loader does, without reading the weights.

    A model of an unknown architecture is built without memory by `transformers`, for which torch is
    imported. Raises `ModelError`.
    """
    path = Path(config.model_path)
    if isinstance(spec, ModelSpec):
        check_checkpoint(path, spec)
        return
    check_checkpoint(path)
    # Only the workers and this check import torch, and only for an unknown architecture.
    from tgi_torch.model.transformers_loading import check_transformers_model  # noqa: PLC0415

    check_transformers_model(spec, path, trust_remote_code=config.trust_remote_code)
