"""The embedding and the head, with their scaling and norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from tgi.architectures import ModelSpec
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Transform,
    build_embedding_or_head_table,
    build_head,
    build_linear,
    build_lookup,
    build_norm,
    identity,
)
from tgi_torch.weights.quantized_matrix import QuantizedMatrix

__all__ = [
    "EmbeddingLayer",
    "build_embedding",
    "build_finish",
    "build_model_head",
    "embedding_size",
]


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

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.project(self.scale(self.lookup(token_ids)))
        return self.norm(self.add_positions(x, positions))


def build_embedding(build: BuildContext, spec: ModelSpec) -> EmbeddingLayer:
    """Build the embedding with its optional scale, projection, position table and norm."""
    parameters, embedding = build.parameters, spec.embedding
    size = embedding_size(spec)
    table = build_embedding_or_head_table(build, "embedding.weight", spec.vocab_size, size)
    projected = size != spec.hidden_size
    # The scale is first rounded to the compute dtype, as in the reference models.
    scale = torch.tensor(embedding.scale, dtype=parameters.dtype).item()
    add_positions: Callable[[Tensor, Tensor], Tensor] = _no_positions
    if embedding.positions is not None:
        rows = embedding.positions.num_positions + embedding.positions.offset
        position_table = parameters.create("embedding.positions.weight", rows, spec.hidden_size)
        add_positions = partial(
            _add_positions, build.ops.embedding, position_table, embedding.positions.offset
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
    )


def embedding_size(spec: ModelSpec) -> int:
    """The size of a token vector before the projection to the hidden size."""
    return spec.hidden_size if spec.embedding.size is None else spec.embedding.size


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
