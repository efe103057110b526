"""The parts that mixers and the decoder are put together from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from tgi.architectures import Norm
from tgi_torch.attention import AttentionMetadata
from tgi_torch.kv_cache import KVCache
from tgi_torch.ops import Ops
from tgi_torch.parameters import Parameters
from tgi_torch.rotary import Rotation

__all__ = [
    "Building",
    "LayerNorm",
    "Linear",
    "Mixer",
    "RMSNorm",
    "StepContext",
    "Transform",
    "build_linear",
    "build_norm",
    "identity",
]

Transform = Callable[[Tensor], Tensor]


class StepContext(NamedTuple):
    """What the layers share during one step."""

    metadata: AttentionMetadata
    kv_cache: KVCache
    rotations: tuple[Rotation, ...]  # one per distinct rope of the model
    plans: tuple[Any, ...]  # one per distinct window, made by `Ops.plan_attention`
    cross_plan: Any = None  # of models with an encoder, made by `Ops.plan_cross_attention`
    state_plan: Any = None  # of models with recurrent layers, made by `Ops.plan_states`


Mixer = Callable[[Tensor, StepContext], Tensor]


class Building(NamedTuple):
    """What every builder needs."""

    ops: Ops
    parameters: Parameters
    hidden_size: int


@final
@dataclass(frozen=True)
class Linear:
    """x W' + b."""

    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, self.bias)


def build_linear(building: Building, prefix: str, rows: dict[str, int], columns: int, *, bias: bool) -> Linear:
    """One linear for the projections named in `rows`, stacked in that order; role `<prefix>.<name>.weight`."""
    weight = building.parameters.create_fused({f"{prefix}.{name}.weight": n for name, n in rows.items()}, after=(columns,))
    offset = building.parameters.create_fused({f"{prefix}.{name}.bias": n for name, n in rows.items()}) if bias else None
    return Linear(building.ops.linear, weight, offset)


@final
@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation."""

    apply: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    weight: Tensor | None  # [size]
    bias: Tensor | None  # [size]
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, self.bias, self.eps)


@final
@dataclass(frozen=True)
class RMSNorm:
    """Root mean square normalisation."""

    apply: Callable[[Tensor, Tensor, float], Tensor]
    weight: Tensor  # [size]
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, self.eps)


def identity(x: Tensor) -> Tensor:
    """What stands where an optional part is absent."""
    return x


def build_norm(building: Building, norm: Norm | None, prefix: str, size: int) -> Transform:
    """The norm with its own parameters `<prefix>.weight` and `<prefix>.bias`."""
    if norm is None:
        return identity
    ops, parameters = building.ops, building.parameters
    weight = parameters.create(f"{prefix}.weight", size) if norm.weight else None
    if norm.kind == "layer":
        bias = parameters.create(f"{prefix}.bias", size) if norm.bias else None
        return LayerNorm(ops.layer_norm, weight, bias, norm.eps)
    if weight is None:
        weight = torch.ones(size, dtype=parameters.dtype, device=parameters.device)
    return RMSNorm(ops.rms_norm_unit_offset if norm.unit_offset else ops.rms_norm, weight, norm.eps)
