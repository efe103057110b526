"""The decoder: one implementation of the architecture grammar in PyTorch.

`build_decoder` takes every branch that a `ModelSpec` asks for; what it returns runs straight
through.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, final

import torch
from torch import Tensor

from tgi.architectures import (
    MLP,
    Attention,
    CrossAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfExperts,
    ModelSpec,
    Rope,
    StateSpace,
)
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import Limits, ModelError
from tgi_torch.attention.cache_layout import TokenMixer, attention_layers
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.encoder_decoder import (
    CrossAttentionMixer,
    Encoder,
    build_cross_attention,
    build_encoder_attention,
    relative_biases,
)
from tgi_torch.model.latent_attention import build_latent_attention
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    Mixer,
    StepContext,
    Transform,
    build_embedding_or_head_table,
    build_head,
    build_linear,
    build_lookup,
    build_norm,
    identity,
)
from tgi_torch.model.linear_attention import build_linear_attention
from tgi_torch.model.mixers import build_attention, build_mlp
from tgi_torch.model.mixture_of_experts import build_mixture_of_experts
from tgi_torch.model.residual import ResidualBlock, build_blocks
from tgi_torch.model.rotary import RotaryTable
from tgi_torch.model.state_space import build_state_space
from tgi_torch.ops import Ops
from tgi_torch.weights.parameters import Parameters
from tgi_torch.weights.quantized_matrix import QuantizedMatrix
from tgi_torch.weights.weight_formats import Quantization

__all__ = ["Decoder", "DecoderWithCache", "build_decoder"]

ItemT = TypeVar("ItemT")


@final
@dataclass(frozen=True)
class EmbeddingLayer:
    """Token ids and positions to hidden vectors."""

    lookup: Transform
    table: Tensor | QuantizedMatrix  # [vocab, size]
    scale: Transform
    project: Transform
    add_positions: Callable[[Tensor, Tensor], Tensor]
    norm: Transform

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.project(self.scale(self.lookup(token_ids)))
        return self.norm(self.add_positions(x, positions))


@final
@dataclass(frozen=True)
class Decoder:
    """A model ready to run once its parameters are loaded. Holds no state of a step, so calls may
    interleave.
    """

    spec: ModelSpec
    parameters: Parameters
    ops: Ops
    windows: tuple[int | None, ...]
    rotary_tables: tuple[RotaryTable, ...]
    embedding: EmbeddingLayer
    blocks: tuple[ResidualBlock, ...]
    final_norm: Transform
    project: Transform  # to the size of the head's columns
    head: Linear
    finish_logits: Transform
    encoder: Encoder | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and cache."""
        return self.parameters.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters.device

    @property
    def is_chunked(self) -> bool:
        """Every mixer goes on from what the part before it left."""
        return True

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Take a part of a weight in (`tgi_torch.weights.loading.WeightSink`)."""
        self.parameters.write(parameter, expert, axis=axis, start=start, piece=piece)

    def with_cache(self, num_blocks: int, block_size: int, limits: Limits) -> DecoderWithCache:
        """The decoder with a cache of its own."""
        # One state more than sequences, for `health`, as there is one block more.
        num_states = limits.max_sequences + 1
        return DecoderWithCache(
            self,
            KVCache.allocate(
                self.spec, num_blocks, block_size, self.dtype, self.device, num_states
            ),
        )

    def close(self) -> None:
        """Nothing to end."""

    def forward(self, token_ids: Tensor, metadata: AttentionMetadata, kv_cache: KVCache) -> Tensor:
        """Hidden vectors [T, hidden] after the final norm for `token_ids` int64 [T]; writes their
        keys and values.

        Not a row's last tokens only: the caller chooses which of them become logits.
        """
        if (
            self.encoder is not None
            and metadata.cross is not None
            and metadata.cross.encoder is not None
        ):
            self.encoder.run(metadata.cross.encoder, kv_cache)
        if metadata.states is not None:
            # A sequence starts where its context is no longer than its row.
            is_new = [
                query == context
                for query, context in zip(metadata.query_lens, metadata.context_lens, strict=True)
            ]
            kv_cache.clear_states(metadata.states[torch.tensor(is_new, device=self.device)])
        context = StepContext(
            metadata=metadata,
            kv_cache=kv_cache,
            rotations=tuple(table.lookup(metadata) for table in self.rotary_tables),
            plans=tuple(
                self.ops.plan_attention(metadata, kv_cache.block_size, window)
                for window in self.windows
            ),
            cross_plan=(
                None
                if metadata.cross is None
                else self.ops.plan_cross_attention(metadata, kv_cache.block_size)
            ),
            state_plan=None if metadata.states is None else self.ops.plan_states(metadata),
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
    """`tgi_torch.model.protocols.Model` over a decoder and a cache."""

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

    def release_state(self, state: int) -> None:
        """States lie in one tensor and are cleared when they are taken again."""

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Hidden vectors of int64 [T], of all tokens or of those `wanted`."""
        hidden = self.decoder.forward(token_ids, metadata, self.kv_cache)
        return hidden if wanted is None else hidden.index_select(0, wanted)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [N, vocab] of [N, hidden]."""
        return self.decoder.logits(hidden)


def build_decoder(
    spec: ModelSpec,
    ops: Ops,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: Quantization | None = None,
) -> Decoder:
    """Lay out a decoder for `spec`; its parameters are not initialised.

    Raises `ModelError` if the spec asks for something that is not built yet.
    """
    parameters = Parameters(dtype=dtype, device=torch.device(device))
    build = BuildContext(ops, parameters, spec.hidden_size, quantization)
    embedding = _build_embedding(build, spec)
    mixers = _MixerBuilder(build, spec)
    blocks = tuple(build_blocks(build, spec.decoder, mixers.build))
    final_norm = build_norm(
        build, spec.decoder.final_norm, f"{spec.decoder.kind}.final_norm", spec.hidden_size
    )
    encoder = _build_encoder(build, spec, embedding, mixers)
    size = _embedding_size(spec)
    projected = size != spec.hidden_size
    project = (
        build_linear(build, "head", {"projection": size}, spec.hidden_size, bias=False)
        if projected
        else identity
    )
    head = _build_head(build, spec, embedding.table)
    assert parameters.shapes == tensor_shapes(spec)
    return Decoder(
        spec=spec,
        parameters=parameters,
        ops=ops,
        windows=mixers.windows,
        rotary_tables=tuple(RotaryTable(rope, parameters.device) for rope in mixers.ropes),
        embedding=embedding,
        blocks=blocks,
        final_norm=final_norm,
        project=project,
        head=head,
        finish_logits=_build_finish(spec),
        encoder=encoder,
    )


@final
class _MixerBuilder:
    """Builds mixers in the order of the layers and counts their places in the caches."""

    def __init__(self, build: BuildContext, spec: ModelSpec) -> None:
        attentions = attention_layers(spec)
        self.windows = _distinct(_window(mixer) for mixer in attentions)
        self.ropes: tuple[Rope, ...] = _distinct(
            mixer.rope for mixer in attentions if mixer.rope is not None
        )
        self.readers: list[CrossAttentionMixer] = []
        self._building = build
        self._spec = spec
        self._find_relative_bias = relative_biases(build)
        self._num_attentions = itertools.count()
        self._num_states = itertools.count()

    def build(self, mixer: object, prefix: str) -> Mixer:
        """What computes `mixer`. Raises `ModelError` if nothing does."""
        match mixer:
            case Attention() | LatentAttention():
                return self._build_attention(mixer, prefix)
            case CrossAttention():
                reader = build_cross_attention(
                    self._building, mixer, prefix, layer=len(self.readers)
                )
                self.readers.append(reader)
                return reader
            case StateSpace():
                return build_state_space(
                    self._building, mixer, prefix, layer=next(self._num_states)
                )
            case LinearAttention():
                return build_linear_attention(
                    self._building, mixer, prefix, layer=next(self._num_states)
                )
            case MLP():
                return build_mlp(self._building, mixer, prefix)
            case MixtureOfExperts():
                return build_mixture_of_experts(self._building, mixer, prefix)
        raise _not_built(self._spec, f"the mixer {type(mixer).__name__}")

    def _build_attention(self, mixer: TokenMixer, prefix: str) -> Mixer:
        build = self._building
        if isinstance(mixer, LatentAttention):
            plan, rotation = self.windows.index(None), self.ropes.index(mixer.rope)
            layer = next(self._num_attentions)
            return build_latent_attention(
                build, mixer, prefix, layer=layer, plan=plan, rotation=rotation
            )
        bias = self._find_relative_bias(mixer, prefix)
        if prefix.startswith("encoder."):
            return build_encoder_attention(build, mixer, prefix, bias)
        return build_attention(
            build,
            mixer,
            prefix,
            layer=next(self._num_attentions),
            plan=self.windows.index(mixer.window),
            rotation=None if mixer.rope is None else self.ropes.index(mixer.rope),
            relative_bias=bias,
        )


def _window(mixer: TokenMixer) -> int | None:
    return mixer.window if isinstance(mixer, Attention) else None


def _build_encoder(
    build: BuildContext, spec: ModelSpec, embedding: EmbeddingLayer, mixers: _MixerBuilder
) -> Encoder | None:
    stack = next((stack for stack in spec.stacks if stack.kind == "encoder"), None)
    if stack is None:
        return None
    return Encoder(
        embedding=embedding,
        blocks=tuple(build_blocks(build, stack, mixers.build)),
        final_norm=build_norm(build, stack.final_norm, "encoder.final_norm", spec.hidden_size),
        readers=tuple(mixers.readers),
    )


def _not_built(spec: ModelSpec, what: str) -> ModelError:
    return ModelError(
        f"{spec.model_type}: {what} is not built yet.", "Choose another model or another backend."
    )


def _distinct(items: Iterator[ItemT]) -> tuple[ItemT, ...]:
    return tuple(dict.fromkeys(items))


def _build_embedding(build: BuildContext, spec: ModelSpec) -> EmbeddingLayer:
    parameters, embedding = build.parameters, spec.embedding
    size = _embedding_size(spec)
    table = build_embedding_or_head_table(build, "embedding.weight", spec.vocab_size, size)
    projected = size != spec.hidden_size
    # Rounded to the compute dtype first, as the reference models round it.
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


def _embedding_size(spec: ModelSpec) -> int:
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


def _build_head(
    build: BuildContext, spec: ModelSpec, embedding_table: Tensor | QuantizedMatrix
) -> Linear:
    tied, size = spec.head.tied, _embedding_size(spec)
    table = (
        embedding_table
        if tied
        else build_embedding_or_head_table(build, "head.weight", spec.vocab_size, size)
    )
    bias = build.parameters.create("head.bias", spec.vocab_size) if spec.head.bias else None
    return build_head(build, table, bias)


def _build_finish(spec: ModelSpec) -> Transform:
    scale, softcap = spec.head.scale, spec.head.softcap
    if softcap is not None:
        return partial(_scale_and_cap, scale, softcap)
    return identity if scale == 1.0 else partial(torch.mul, other=scale)


def _scale_and_cap(scale: float, softcap: float, logits: Tensor) -> Tensor:
    return torch.tanh(logits * (scale / softcap)) * softcap
