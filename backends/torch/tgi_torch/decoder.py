"""The decoder: one implementation of the architecture grammar in PyTorch.

`build_decoder` takes every branch that a `ModelSpec` asks for; what it returns runs straight through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, final

import torch
from torch import Tensor

from tgi.architectures import MLP, Attention, Block, Branch, MixtureOfExperts, ModelSpec, Stack
from tgi.architectures.roles import mixer_tag
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import Limits, ModelError
from tgi_torch.attention import AttentionMetadata
from tgi_torch.kv_cache import KVCache, attention_layers
from tgi_torch.layers import Building, Linear, Mixer, StepContext, Transform, build_linear, build_norm, identity
from tgi_torch.mixers import build_attention, build_mlp
from tgi_torch.mixture_of_experts import build_mixture_of_experts
from tgi_torch.ops import Ops
from tgi_torch.parameters import Parameters
from tgi_torch.rotary import RotaryTable

__all__ = ["Decoder", "DecoderWithCache", "build_decoder"]

ItemT = TypeVar("ItemT")


@final
@dataclass(frozen=True)
class EmbeddingLayer:
    """Token ids and positions to hidden vectors."""

    lookup: Callable[[Tensor, Tensor], Tensor]
    table: Tensor  # [vocab, size]
    scale: Transform
    project: Transform
    add_positions: Callable[[Tensor, Tensor], Tensor]
    norm: Transform

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.project(self.scale(self.lookup(token_ids, self.table)))
        return self.norm(self.add_positions(x, positions))


@final
@dataclass(frozen=True)
class ResidualBranch:
    """post_norm(mixer(norm(y)))."""

    norm: Transform
    mixer: Mixer
    post_norm: Transform

    def __call__(self, y: Tensor, context: StepContext) -> Tensor:
        return self.post_norm(self.mixer(self.norm(y), context))


@final
@dataclass(frozen=True)
class ResidualBlock:
    """One residual step; its branches read the same input."""

    norm: Transform
    first: ResidualBranch
    others: tuple[ResidualBranch, ...]
    add: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, y, out): x before the norm, y after it
    output_norm: Transform

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        y = self.norm(x)
        out = self.first(y, context)
        for branch in self.others:
            out = out + branch(y, context)
        return self.output_norm(self.add(x, y, out))


@final
@dataclass(frozen=True)
class Decoder:
    """A model ready to run once its parameters are loaded. Holds no state of a step, so calls may interleave."""

    spec: ModelSpec
    parameters: Parameters
    plan_attention: Callable[[AttentionMetadata, int, int | None], object]
    windows: tuple[int | None, ...]
    rotary_tables: tuple[RotaryTable, ...]
    embedding: EmbeddingLayer
    blocks: tuple[ResidualBlock, ...]
    final_norm: Transform
    project: Transform  # to the size of the head's columns
    head: Linear
    finish_logits: Transform

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and cache."""
        return self.parameters.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters.device

    def write(self, role: str, expert: int | None, *, axis: int, start: int, piece: Tensor) -> None:
        """Take a part of a weight in (`tgi_torch.weights.WeightSink`)."""
        self.parameters.write(role, expert, axis=axis, start=start, piece=piece)

    def with_cache(self, num_blocks: int, block_size: int, limits: Limits) -> DecoderWithCache:
        """The decoder with a cache of its own; steps need nothing else."""
        del limits
        return DecoderWithCache(self, KVCache.allocate(self.spec, num_blocks, block_size, self.dtype, self.device))

    def close(self) -> None:
        """Nothing to end."""

    def forward(self, token_ids: Tensor, metadata: AttentionMetadata, kv_cache: KVCache) -> Tensor:
        """Hidden vectors [T, hidden] after the final norm for `token_ids` int64 [T]; writes their keys and values.

        Not a row's last tokens only: the caller chooses which of them become logits.
        """
        context = StepContext(
            metadata=metadata,
            kv_cache=kv_cache,
            rotations=tuple(table.lookup(metadata) for table in self.rotary_tables),
            plans=tuple(self.plan_attention(metadata, kv_cache.block_size, window) for window in self.windows),
        )
        x = self.embedding(token_ids, metadata.positions)
        for block in self.blocks:
            x = block(x, context)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [N, vocab] of hidden vectors [N, hidden]."""
        return self.finish_logits(self.head(self.project(hidden)).float())


@final
@dataclass(frozen=True)
class DecoderWithCache:
    """`tgi_torch.model.Model` over a decoder and a cache."""

    decoder: Decoder
    kv_cache: KVCache

    @property
    def spec(self) -> ModelSpec:
        """What the decoder was built from."""
        return self.decoder.spec

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.device

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache."""
        return self.kv_cache.num_blocks

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.kv_cache.block_size

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer."""
        self.kv_cache.copy_blocks(sources, targets)

    def forward(self, token_ids: Tensor, metadata: AttentionMetadata) -> Tensor:
        """Hidden vectors [T, hidden] of int64 [T]."""
        return self.decoder.forward(token_ids, metadata, self.kv_cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [N, vocab] of [N, hidden]."""
        return self.decoder.logits(hidden)


def build_decoder(spec: ModelSpec, ops: Ops, dtype: torch.dtype, device: torch.device | str) -> Decoder:
    """Lay out a decoder for `spec`; its parameters are not initialised.

    Raises `ModelError` if the spec asks for something that is not built yet.
    """
    if any(stack.kind != "decoder" for stack in spec.stacks):
        raise _not_built(spec, "an encoder")
    parameters = Parameters(dtype=dtype, device=torch.device(device))
    building = Building(ops=ops, parameters=parameters, hidden_size=spec.hidden_size)
    embedding = _build_embedding(building, spec)
    attentions = attention_layers(spec)
    windows = _distinct(layer.window for layer in attentions)
    ropes = _distinct(layer.rope for layer in attentions if layer.rope is not None)

    layers = iter(range(len(attentions)))  # built in this order too

    def build_mixer(mixer: object, prefix: str) -> Mixer:
        match mixer:
            case Attention():
                rotation = None if mixer.rope is None else ropes.index(mixer.rope)
                plan = windows.index(mixer.window)
                return build_attention(building, mixer, prefix, layer=next(layers), plan=plan, rotation=rotation)
            case MLP():
                return build_mlp(building, mixer, prefix)
            case MixtureOfExperts():
                return build_mixture_of_experts(building, mixer, prefix)
        raise _not_built(spec, f"the mixer {type(mixer).__name__}")

    blocks = tuple(_build_blocks(building, spec.decoder, build_mixer))
    size = _embedding_size(spec)
    projected = size != spec.hidden_size
    final_norm = build_norm(building, spec.decoder.final_norm, f"{spec.decoder.kind}.final_norm", spec.hidden_size)
    project = build_linear(building, "head", {"projection": size}, spec.hidden_size, bias=False) if projected else identity
    head = _build_head(building, spec, embedding.table)
    assert {role: tuple(tensor.shape) for role, tensor in parameters.by_role.items()} == tensor_shapes(spec)
    return Decoder(
        spec=spec,
        parameters=parameters,
        plan_attention=ops.plan_attention,
        windows=windows,
        rotary_tables=tuple(RotaryTable(rope, parameters.device) for rope in ropes),
        embedding=embedding,
        blocks=blocks,
        final_norm=final_norm,
        project=project,
        head=head,
        finish_logits=_build_finish(spec),
    )


def _not_built(spec: ModelSpec, what: str) -> ModelError:
    return ModelError(f"{spec.model_type}: {what} is not built yet.", "Choose another model or another backend.")


def _distinct(items: Iterator[ItemT]) -> tuple[ItemT, ...]:
    return tuple(dict.fromkeys(items))


def _build_embedding(building: Building, spec: ModelSpec) -> EmbeddingLayer:
    parameters, embedding = building.parameters, spec.embedding
    size = _embedding_size(spec)
    table = parameters.create("embedding.weight", spec.vocab_size, size)
    projected = size != spec.hidden_size
    # Rounded to the compute dtype first, as the reference models round it.
    scale = torch.tensor(embedding.scale, dtype=parameters.dtype).item()
    add_positions: Callable[[Tensor, Tensor], Tensor] = _no_positions
    if embedding.positions is not None:
        rows = embedding.positions.num_positions + embedding.positions.offset
        position_table = parameters.create("embedding.positions.weight", rows, spec.hidden_size)
        add_positions = partial(_add_positions, building.ops.embedding, position_table, embedding.positions.offset)
    return EmbeddingLayer(
        lookup=building.ops.embedding,
        table=table,
        scale=identity if embedding.scale == 1.0 else partial(torch.mul, other=scale),
        project=build_linear(building, "embedding", {"projection": spec.hidden_size}, size, bias=False)
        if projected
        else identity,
        add_positions=add_positions,
        norm=build_norm(building, embedding.norm, "embedding.norm", spec.hidden_size),
    )


def _embedding_size(spec: ModelSpec) -> int:
    return spec.hidden_size if spec.embedding.size is None else spec.embedding.size


def _no_positions(x: Tensor, positions: Tensor) -> Tensor:
    return x


def _add_positions(
    lookup: Callable[[Tensor, Tensor], Tensor], table: Tensor, offset: int, x: Tensor, positions: Tensor
) -> Tensor:
    return x + lookup(positions + offset, table)


def _build_blocks(building: Building, stack: Stack, build_mixer: Callable[[object, str], Mixer]) -> Iterator[ResidualBlock]:
    for number, layer in enumerate(stack.layers):
        prefix = f"{stack.kind}.layers.{number}"
        for place, block in enumerate(layer.blocks):
            yield _build_block(building, block, prefix, f"{prefix}.block{place}", build_mixer)


def _build_block(
    building: Building, block: Block, layer_prefix: str, prefix: str, build_mixer: Callable[[object, str], Mixer]
) -> ResidualBlock:
    def build_branch(branch: Branch) -> ResidualBranch:
        name = f"{layer_prefix}.{mixer_tag(branch.mixer)}"
        return ResidualBranch(
            norm=build_norm(building, branch.norm, f"{name}.norm", building.hidden_size),
            mixer=build_mixer(branch.mixer, name),
            post_norm=build_norm(building, branch.post_norm, f"{name}.post_norm", building.hidden_size),
        )

    first, *others = [build_branch(branch) for branch in block.branches]
    return ResidualBlock(
        norm=build_norm(building, block.norm, f"{prefix}.norm", building.hidden_size),
        first=first,
        others=tuple(others),
        add=partial(_add_to_normed if block.residual_from_norm else _add_to_input, block.residual_scale),
        output_norm=build_norm(building, block.output_norm, f"{prefix}.output_norm", building.hidden_size),
    )


def _add_to_input(scale: float, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    return torch.add(x, out, alpha=scale)


def _add_to_normed(scale: float, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    return torch.add(y, out, alpha=scale)


def _build_head(building: Building, spec: ModelSpec, embedding_table: Tensor) -> Linear:
    parameters = building.parameters
    tied = spec.head.tied
    weight = embedding_table if tied else parameters.create("head.weight", *embedding_table.shape)
    bias = parameters.create("head.bias", spec.vocab_size) if spec.head.bias else None
    return Linear(building.ops.linear, weight, bias)


def _build_finish(spec: ModelSpec) -> Transform:
    scale, softcap = spec.head.scale, spec.head.softcap
    if softcap is not None:
        return partial(_scale_and_cap, scale, softcap)
    return identity if scale == 1.0 else partial(torch.mul, other=scale)


def _scale_and_cap(scale: float, softcap: float, logits: Tensor) -> Tensor:
    return torch.tanh(logits * (scale / softcap)) * softcap
