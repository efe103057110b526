"""The embedding of tokens, and the inputs of the layers that are computed from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from tgi.architectures import (
    Activation,
    LayerInput,
    LayerInputs,
    LearnedPositions,
    ModelSpec,
    SinusoidalPositions,
)
from tgi.architectures.rope import sinusoidal_table
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    StepContext,
    Transform,
    build_embedding_or_head_table,
    build_linear,
    build_lookup,
    build_norm,
    embedding_size,
    identity,
)
from tgi_torch.weights.quantized_matrix import QuantizedMatrix

__all__ = ["EmbeddingLayer", "build_embedding", "build_layer_input"]


@final
@dataclass(frozen=True)
class EmbeddingLayer:
    """Maps token ids and positions to hidden vectors."""

    lookup: Transform
    table: Tensor | QuantizedMatrix  # [vocab, size]
    scale: Transform
    project: Transform
    add_positions: Callable[[Tensor, Tensor], Tensor]
    norm: Transform
    inputs_of_layers: Callable[[Tensor, Tensor], Tensor | None]  # maps (token ids, x) to the inputs

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.project(self.scale(self.lookup(token_ids)))
        return self.norm(self.add_positions(x, positions))


def build_embedding(build: BuildContext, spec: ModelSpec) -> EmbeddingLayer:
    """Build the embedding with its optional scale, projection, position table and norm."""
    parameters, embedding = build.parameters, spec.embedding
    size = embedding_size(spec)
    table = build_embedding_or_head_table(build, "embedding.weight", spec.vocab_size, size)
    projected = size != spec.hidden_size
    # The scale is first rounded to the compute dtype, as in `transformers`.
    scale = torch.tensor(embedding.scale, dtype=parameters.dtype).item()
    add_positions: Callable[[Tensor, Tensor], Tensor] = _no_positions
    if embedding.positions is not None:
        add_positions = partial(
            _add_positions,
            build.ops.embedding,
            _build_positions(build, embedding.positions, spec.hidden_size),
            embedding.positions.offset,
        )
    return EmbeddingLayer(
        lookup=build_lookup(build, table),
        table=table,
        scale=identity if embedding.scale == 1.0 else partial(torch.mul, other=scale),
        project=(
            build_linear(build, "embedding", {"projection": spec.hidden_size}, size, bias=False)
            if projected
            else identity
        ),
        add_positions=add_positions,
        norm=build_norm(build, embedding.norm, "embedding.norm", spec.hidden_size),
        inputs_of_layers=_build_layer_inputs(build, spec),
    )


@final
@dataclass(frozen=True)
class LayerInputTable:
    """Computes the inputs of all layers, which `LayerInputMixer` reads."""

    lookup: Transform
    project: Linear
    norm: Transform
    rules: LayerInputs
    scale: float  # the scale of the table, rounded to the compute dtype

    def __call__(self, token_ids: Tensor, x: Tensor) -> Tensor:
        """Compute [T, layers, size] for the token ids int64 [T] and their vectors x [T, hidden]."""
        rules = self.rules
        shape = (len(token_ids), -1, rules.size)
        table = (self.lookup(token_ids) * self.scale).view(shape)
        projected = (self.project(x) * rules.projection_scale).view(shape)
        return (self.norm(projected) + table) * rules.sum_scale


def _build_layer_inputs(
    build: BuildContext, spec: ModelSpec
) -> Callable[[Tensor, Tensor], Tensor | None]:
    rules = spec.embedding.layer_inputs
    if rules is None:
        return _no_layer_inputs
    columns = len(spec.decoder.layers) * rules.size
    table = build_embedding_or_head_table(
        build, "embedding.layer_inputs.weight", rules.vocab_size, columns
    )
    return LayerInputTable(
        lookup=build_lookup(build, table),
        project=build_linear(
            build, "embedding", {"layer_projection": columns}, spec.hidden_size, bias=False
        ),
        norm=build_norm(build, rules.norm, "embedding.layer_norm", rules.size),
        rules=rules,
        scale=torch.tensor(rules.scale, dtype=build.parameters.dtype).item(),
    )


def _no_layer_inputs(token_ids: Tensor, x: Tensor) -> None:
    """Return None for a model whose layers have no inputs."""


@final
@dataclass(frozen=True)
class LayerInputMixer:
    """Computes out(activation(gate(x)) * input of the layer)."""

    gate: Linear
    activation: Transform
    out: Linear
    layer: int  # index of the layer in `StepContext.layer_inputs`

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        assert context.layer_inputs is not None
        gate = self.activation(self.gate(x))
        return self.out(gate * context.layer_inputs[:, self.layer])


def build_layer_input(
    build: BuildContext, spec: LayerInput, prefix: str, *, layer: int
) -> LayerInputMixer:
    """Build the mixer with the parameters `<prefix>.{gate,out}.weight`."""
    return LayerInputMixer(
        gate=build_linear(build, prefix, {"gate": spec.size}, build.hidden_size, bias=False),
        activation=partial(_activate, build.ops.activation, spec.activation),
        out=build_linear(build, prefix, {"out": build.hidden_size}, spec.size, bias=False),
        layer=layer,
    )


def _activate(apply: Callable[[Tensor, Activation], Tensor], kind: Activation, x: Tensor) -> Tensor:
    return apply(x, kind)


def _build_positions(
    build: BuildContext, positions: LearnedPositions | SinusoidalPositions, size: int
) -> Tensor:
    """Build the table of position vectors, [num_positions + offset, size]."""
    if isinstance(positions, SinusoidalPositions):
        table = torch.from_numpy(sinusoidal_table(positions, size))
        return table.to(build.parameters.device, build.parameters.dtype)
    rows = positions.num_positions + positions.offset
    return build.parameters.create("embedding.positions.weight", rows, size)


def _no_positions(x: Tensor, positions: Tensor) -> Tensor:
    return x


def _add_positions(
    lookup: Callable[[Tensor, Tensor], Tensor],
    table: Tensor,
    offset: int,
    x: Tensor,
    positions: Tensor,
) -> Tensor:
    return x + lookup(positions + offset, table)
