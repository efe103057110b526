"""The components from which mixers and the decoder are built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from tgi.architectures import Norm
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.rotary import Rotation
from tgi_torch.ops import Ops
from tgi_torch.weights.parameters import Parameters
from tgi_torch.weights.quantized_matrix import QuantizedMatrix
from tgi_torch.weights.weight_formats import Quantization, is_quantized

__all__ = [
    "BuildContext",
    "LayerNorm",
    "Linear",
    "Mixer",
    "RMSNorm",
    "StepContext",
    "Transform",
    "build_embedding_or_head_table",
    "build_head",
    "build_linear",
    "build_lookup",
    "build_norm",
    "identity",
]

Transform = Callable[[Tensor], Tensor]


class StepContext(NamedTuple):
    """Data that all layers share during one step."""

    metadata: AttentionMetadata
    kv_cache: KVCache
    rotations: tuple[Rotation, ...]  # one per distinct rope of the model
    plans: tuple[Any, ...]  # one per distinct window, made by `Ops.plan_attention`
    cross_plan: Any = None  # in models with an encoder, made by `Ops.plan_cross_attention`
    state_plan: Any = None  # in models with recurrent layers, made by `Ops.plan_states`


Mixer = Callable[[Tensor, StepContext], Tensor]


class BuildContext(NamedTuple):
    """The arguments that every builder needs."""

    ops: Ops
    parameters: Parameters
    hidden_size: int
    quantization: Quantization | None = None


@final
@dataclass(frozen=True)
class Linear:
    """A linear layer, x W' + b."""

    apply: Callable[[Tensor, Any, Tensor | None], Tensor]
    weight: Tensor | QuantizedMatrix  # [out, in], in the form that `apply` requires
    bias: Tensor | None  # [out]

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, self.bias)


def build_linear(
    build: BuildContext, prefix: str, rows: dict[str, int], columns: int, *, bias: bool
) -> Linear:
    """Build one linear layer for the projections named in `rows`, stacked in that order.

    The values of `rows` are output sizes. The parameters are `<prefix>.<name>.weight` and, if
    `bias` is set, `<prefix>.<name>.bias`.
    """
    store, quantization = build.parameters, build.quantization
    names = {f"{prefix}.{name}.weight": n for name, n in rows.items()}
    offset = (
        store.create_fused({f"{prefix}.{name}.bias": n for name, n in rows.items()})
        if bias
        else None
    )
    if quantization is not None and all(
        is_quantized(name, (n, columns)) for name, n in names.items()
    ):
        return Linear(
            _multiply_quantized, store.create_quantized(names, columns, quantization.layers), offset
        )
    return Linear(build.ops.linear, store.create_fused(names, after=(columns,)), offset)


def build_embedding_or_head_table(
    build: BuildContext, parameter: str, rows: int, columns: int
) -> Tensor | QuantizedMatrix:
    """Create the table [rows, columns] of an embedding or a head as `parameter`."""
    if build.quantization is None:
        return build.parameters.create(parameter, rows, columns)
    return build.parameters.create_quantized(
        {parameter: rows}, columns, build.quantization.embedding_and_head
    )


def build_head(build: BuildContext, table: Tensor | QuantizedMatrix, bias: Tensor | None) -> Linear:
    """Build the linear layer whose weight is the table of a head."""
    return Linear(
        build.ops.linear if isinstance(table, Tensor) else _multiply_quantized, table, bias
    )


def build_lookup(build: BuildContext, table: Tensor | QuantizedMatrix) -> Transform:
    """Build the lookup of embedding rows: int64 [T] to [T, columns]."""
    return (
        partial(_lookup, build.ops.embedding, table) if isinstance(table, Tensor) else table.lookup
    )


def _lookup(embedding: Callable[[Tensor, Tensor], Tensor], table: Tensor, ids: Tensor) -> Tensor:
    return embedding(ids, table)


def _multiply_quantized(x: Tensor, weight: QuantizedMatrix, bias: Tensor | None) -> Tensor:
    return weight.multiply(x, bias)


@final
@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation over the last dimension."""

    apply: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    weight: Tensor | None  # [size]
    bias: Tensor | None  # [size]
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, self.bias, self.eps)


@final
@dataclass(frozen=True)
class RMSNorm:
    """Root mean square normalisation over the last dimension."""

    apply: Callable[[Tensor, Tensor, float], Tensor]
    weight: Tensor  # [size]
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, self.weight, self.eps)


def identity(x: Tensor) -> Tensor:
    """Return `x`. Replaces an optional part that the model does not have."""
    return x


def build_norm(build: BuildContext, norm: Norm | None, prefix: str, size: int) -> Transform:
    """Build a norm with the parameters `<prefix>.weight` and `<prefix>.bias`.

    Returns `identity` if `norm` is None.
    """
    if norm is None:
        return identity
    ops, parameters = build.ops, build.parameters
    weight = parameters.create(f"{prefix}.weight", size) if norm.weight else None
    if norm.kind == "layer":
        bias = parameters.create(f"{prefix}.bias", size) if norm.bias else None
        return LayerNorm(ops.layer_norm, weight, bias, norm.eps)
    if weight is None:
        weight = torch.ones(size, dtype=parameters.dtype, device=parameters.device)
    return RMSNorm(ops.rms_norm_unit_offset if norm.unit_offset else ops.rms_norm, weight, norm.eps)
