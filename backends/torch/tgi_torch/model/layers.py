"""The components of mixers and of the decoder, including residual blocks, the embedding and the
head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from tgi.architectures import (
    Block,
    Branch,
    ModelSpec,
    Norm,
    Stack,
)
from tgi.architectures.parameter_names import mixer_tag
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.rotary import Rotation
from tgi_torch.ops import Ops
from tgi_torch.weights.parameters import Parameters
from tgi_torch.weights.quantized_matrix import QuantizedMatrix
from tgi_torch.weights.weight_formats import MatrixFormats

__all__ = [
    "BuildContext",
    "BuildMixer",
    "LayerNorm",
    "Linear",
    "Mixer",
    "RMSNorm",
    "ResidualBlock",
    "ResidualBranch",
    "StepContext",
    "Transform",
    "build_blocks",
    "build_embedding_or_head_table",
    "build_finish",
    "build_head",
    "build_linear",
    "build_lookup",
    "build_model_head",
    "build_norm",
    "embedding_size",
    "identity",
]

Transform = Callable[[Tensor], Tensor]


class StepContext(NamedTuple):
    """Data that all layers share during one step."""

    metadata: AttentionMetadata
    kv_cache: KVCache
    rotations: tuple[Rotation, ...]  # one per distinct rope of the model
    plans: tuple[Any, ...]  # one per distinct key range, made by `Ops.plan_attention`
    cross_plan: Any = None  # in models with an encoder, made by `Ops.plan_cross_attention`
    state_plan: Any = None  # in models with recurrent layers, made by `Ops.plan_states`
    layer_inputs: Tensor | None = None  # [T, layers, size], in models with `LayerInputs`


Mixer = Callable[[Tensor, StepContext], Tensor]


class BuildContext(NamedTuple):
    """The arguments that every builder needs."""

    ops: Ops
    parameters: Parameters
    hidden_size: int
    quantization: MatrixFormats | None = None


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
    weight_format = None if quantization is None else quantization.matrix_format(names, columns)
    if weight_format is not None:
        return Linear(
            _multiply_quantized, store.create_quantized(names, columns, weight_format), offset
        )
    return Linear(build.ops.linear, store.create_fused(names, after=(columns,)), offset)


def build_embedding_or_head_table(
    build: BuildContext, parameter: str, rows: int, columns: int
) -> Tensor | QuantizedMatrix:
    """Create the table [rows, columns] of an embedding or a head as `parameter`."""
    formats = build.quantization
    weight_format = (
        None if formats is None else formats.parameter_format(parameter, (rows, columns))
    )
    if weight_format is None:
        return build.parameters.create(parameter, rows, columns)
    return build.parameters.create_quantized({parameter: rows}, columns, weight_format)


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
        apply = partial(_add_one, ops.layer_norm) if norm.unit_offset else ops.layer_norm
        return LayerNorm(apply, weight, bias, norm.eps)
    if weight is None:
        weight = torch.ones(size, dtype=parameters.dtype, device=parameters.device)
    return RMSNorm(ops.rms_norm_unit_offset if norm.unit_offset else ops.rms_norm, weight, norm.eps)


def _add_one(
    layer_norm: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Apply a layer norm whose weight is stored minus 1."""
    return layer_norm(x, None if weight is None else weight + 1.0, bias, eps)


def embedding_size(spec: ModelSpec) -> int:
    """The size of a token vector before the projection to the hidden size."""
    return spec.hidden_size if spec.embedding.size is None else spec.embedding.size


def build_model_head(
    build: BuildContext, spec: ModelSpec, embedding_table: Tensor | QuantizedMatrix
) -> Linear:
    """Build the head. A tied head uses `embedding_table`."""
    tied, size = spec.head.tied, embedding_size(spec)
    table = (
        embedding_table
        if tied
        else build_embedding_or_head_table(build, "head.weight", spec.vocab_size, size)
    )
    bias = build.parameters.create("head.bias", spec.vocab_size) if spec.head.bias else None
    return build_head(build, table, bias)


def build_finish(spec: ModelSpec) -> Transform:
    """Build the function that scales and caps the logits."""
    scale, softcap = spec.head.scale, spec.head.softcap
    if softcap is not None:
        return partial(_scale_and_cap, scale, softcap)
    return identity if scale == 1.0 else partial(torch.mul, other=scale)


def _scale_and_cap(scale: float, softcap: float, logits: Tensor) -> Tensor:
    return torch.tanh(logits * (scale / softcap)) * softcap


BuildMixer = Callable[[object, str], Mixer]
"""Builds the function that computes a mixer of the spec. The arguments are the mixer of the spec
and the prefix of its parameters.
"""


@final
@dataclass(frozen=True)
class ResidualBranch:
    """Computes post_norm(mixer(norm(y)))."""

    norm: Transform
    mixer: Mixer
    post_norm: Transform

    def __call__(self, y: Tensor, context: StepContext) -> Tensor:
        return self.post_norm(self.mixer(self.norm(y), context))


@final
@dataclass(frozen=True)
class ResidualBlock:
    """Adds the sum of the outputs of one or more branches to the residual. All branches read the
    same input.
    """

    norm: Transform
    first: ResidualBranch
    others: tuple[ResidualBranch, ...]
    add: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, norm of x, output)
    finish: Transform  # the output norm and the output scale

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        y = self.norm(x)
        out = self.first(y, context)
        for branch in self.others:
            out = out + branch(y, context)
        return self.finish(self.add(x, y, out))


def build_blocks(
    build: BuildContext, stack: Stack, build_mixer: BuildMixer
) -> Iterator[ResidualBlock]:
    """Build the blocks of all layers of a stack, in order."""
    for number, layer in enumerate(stack.layers):
        prefix = f"{stack.kind}.layers.{number}"
        for place, block in enumerate(layer.blocks):
            yield _build_block(build, block, prefix, f"{prefix}.block{place}", build_mixer)


def _build_block(
    build: BuildContext, block: Block, layer_prefix: str, prefix: str, build_mixer: BuildMixer
) -> ResidualBlock:
    def build_branch(branch: Branch) -> ResidualBranch:
        name = f"{layer_prefix}.{mixer_tag(branch.mixer)}"
        return ResidualBranch(
            norm=build_norm(build, branch.norm, f"{name}.norm", build.hidden_size),
            mixer=build_mixer(branch.mixer, name),
            post_norm=build_norm(build, branch.post_norm, f"{name}.post_norm", build.hidden_size),
        )

    first, *others = [build_branch(branch) for branch in block.branches]
    return ResidualBlock(
        norm=build_norm(build, block.norm, f"{prefix}.norm", build.hidden_size),
        first=first,
        others=tuple(others),
        add=_build_add(block),
        finish=_build_finish(build, block, prefix),
    )


def _build_finish(build: BuildContext, block: Block, prefix: str) -> Transform:
    norm = build_norm(build, block.output_norm, f"{prefix}.output_norm", build.hidden_size)
    if not block.output_scale:
        return norm
    assert block.output_norm is None, "no model has an output norm and an output scale"
    return partial(torch.mul, other=build.parameters.create(f"{prefix}.output_scale", 1))


def _build_add(block: Block) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    add = partial(
        _add_to_normed if block.residual_from_norm else _add_to_input, block.residual_scale
    )
    return add if block.input_scale == 1.0 else partial(_scale_and_add, block.input_scale, add)


def _scale_and_add(
    input_scale: float,
    add: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    out: Tensor,
) -> Tensor:
    return add(x * input_scale, y * input_scale, out)


def _add_to_input(scale: float, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    return torch.add(x, out, alpha=scale)


def _add_to_normed(scale: float, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    return torch.add(y, out, alpha=scale)
