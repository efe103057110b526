"""The decoder of a `ModelSpec` in PyTorch.

`build_decoder` makes all decisions that depend on the spec, so calls of the decoder do not branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import Limits
from tgi.checkpoints.quantized import QuantizedMatrix
from tgi.worker.cache_format import CacheCoding
from tgi_torch.attention.key_range import KeyRange
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.embedding import EmbeddingLayer, build_embedding
from tgi_torch.model.encoder_decoder import Encoder
from tgi_torch.model.layers import (
    BuildContext,
    Linear,
    ResidualBlock,
    StepContext,
    Transform,
    build_blocks,
    build_finish,
    build_linear,
    build_model_head,
    build_norm,
    embedding_size,
    identity,
)
from tgi_torch.model.mixer_builder import MixerBuilder
from tgi_torch.model.rotary import RotaryTable
from tgi_torch.ops import Ops
from tgi_torch.weights.parameters import Parameters
from tgi_torch.weights.weight_formats import CheckpointFormats, MatrixFormats

__all__ = ["Decoder", "DecoderWithCache", "build_decoder"]


@final
@dataclass(frozen=True)
class Decoder:
    """A model without a cache.

    It can run after its parameters were loaded. The decoder keeps no state of a step, so calls may
    be interleaved.
    """

    spec: ModelSpec
    parameters: Parameters
    ops: Ops
    key_ranges: tuple[KeyRange, ...]
    rotary_tables: tuple[RotaryTable, ...]
    embedding: EmbeddingLayer
    blocks: tuple[ResidualBlock, ...]
    final_norm: Transform
    project: Transform  # projects hidden vectors to the size of the head's inputs
    head: Linear
    finish_logits: Transform
    encoder: Encoder | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters and cache."""
        return self.parameters.dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.parameters.device

    @property
    def is_chunked(self) -> bool:
        """The value is True, because every mixer continues from the cache or state of the previous
        chunk.
        """
        return True

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Store a part of a weight. See `tgi_torch.weights.loading.WeightSink`."""
        self.parameters.write(parameter, expert, axis=axis, start=start, piece=piece)

    def takes(self, parameter: str) -> bool:
        """Whether `write_quantized` stores the parameter in the checkpoint's format."""
        return self.parameters.takes(parameter)

    def write_quantized(
        self, parameter: str, expert: int | None, first_row: int, piece: QuantizedMatrix
    ) -> None:
        """Store rows of a quantized parameter, beginning with `first_row`."""
        assert expert is None, f"{parameter}: experts are dequantized"
        self.parameters.write_quantized(parameter, first_row, piece)

    def with_cache(
        self,
        num_blocks: int,
        block_size: int,
        limits: Limits,
        *,
        num_states: int = 0,
        coding: CacheCoding | None = None,
    ) -> DecoderWithCache:
        """Allocate a cache and return the decoder with it."""
        del limits
        return DecoderWithCache(
            self,
            KVCache.allocate(
                self.spec, num_blocks, block_size, self.dtype, self.device, num_states, coding
            ),
        )

    def close(self) -> None:
        """Do nothing, because there are no threads or files to close."""

    def forward(self, token_ids: Tensor, metadata: AttentionMetadata, kv_cache: KVCache) -> Tensor:
        """Compute the hidden vectors [T, hidden] after the final norm for `token_ids` int64 [T].

        Writes the keys and values of all tokens. The result contains all tokens. The caller selects
        the tokens for which it needs logits.
        """
        if (
            self.encoder is not None
            and metadata.cross is not None
            and metadata.cross.encoder is not None
        ):
            self.encoder.run(metadata.cross.encoder, kv_cache)
        if metadata.states is not None:
            # A row contains the start of its sequence if the context is not longer than the row.
            is_new = [
                query == context
                for query, context in zip(metadata.query_lens, metadata.context_lens, strict=True)
            ]
            kv_cache.clear_states(metadata.states[torch.tensor(is_new, device=self.device)])
        x = self.embedding(token_ids, metadata.positions)
        layer_inputs = self.embedding.inputs_of_layers(token_ids, x)
        context = self.step_context(metadata, kv_cache, layer_inputs)
        for block in self.blocks:
            x = block(x, context)
        return self.final_norm(x)

    def step_context(
        self, metadata: AttentionMetadata, kv_cache: KVCache, layer_inputs: Tensor | None
    ) -> StepContext:
        """Compute the data that all layers share during the step of `metadata`."""
        return StepContext(
            metadata=metadata,
            kv_cache=kv_cache,
            rotations=tuple(table.lookup(metadata) for table in self.rotary_tables),
            plans=tuple(
                self.ops.plan_attention(metadata, kv_cache.block_size, key_range)
                for key_range in self.key_ranges
            ),
            cross_plan=(
                None
                if metadata.cross is None
                else self.ops.plan_cross_attention(metadata, kv_cache.block_size)
            ),
            state_plan=None if metadata.states is None else self.ops.plan_states(metadata),
            layer_inputs=layer_inputs,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits float32 [N, vocab] of hidden vectors [N, hidden]."""
        return self.finish_logits(self.head(self.project(hidden)).float())


@final
@dataclass(frozen=True)
class DecoderWithCache:
    """A `tgi_torch.model.protocols.Model` that consists of a decoder and a cache."""

    decoder: Decoder
    kv_cache: KVCache

    @property
    def spec(self) -> ModelSpec:
        """The specification of the decoder."""
        return self.decoder.spec

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.decoder.device

    @property
    def num_blocks(self) -> int:
        """Number of blocks in the cache."""
        return self.kv_cache.num_blocks

    @property
    def block_size(self) -> int:
        """Number of tokens in a block."""
        return self.kv_cache.block_size

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer. `sources` and `targets` are int64 [N]."""
        self.kv_cache.copy_blocks(sources, targets)

    def copy_states(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole states in every recurrent layer. `sources` and `targets` are int64 [N]."""
        self.kv_cache.copy_states(sources, targets)

    def release_state(self, state: int) -> None:
        """Do nothing, because a state is cleared when the next sequence starts to use it."""

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Compute the hidden vectors of int64 [T], or only those with the indices `wanted`."""
        hidden = self.decoder.forward(token_ids, metadata, self.kv_cache)
        return hidden if wanted is None else hidden.index_select(0, wanted)

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits float32 [N, vocab] of hidden vectors [N, hidden]."""
        return self.decoder.logits(hidden)


def build_decoder(
    spec: ModelSpec,
    ops: Ops,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: MatrixFormats | None = None,
) -> Decoder:
    """Build a decoder for `spec`. Its parameters are not initialised.

    Raises `ModelError` if the spec needs a mixer that is not supported.
    """
    parameters = Parameters(
        dtype=dtype,
        device=torch.device(device),
        takes_codes=isinstance(quantization, CheckpointFormats),
    )
    build = BuildContext(ops, parameters, spec.hidden_size, quantization)
    embedding = build_embedding(build, spec)
    mixers = MixerBuilder(build, spec)
    blocks = tuple(build_blocks(build, spec.decoder, mixers.build))
    final_norm = build_norm(
        build, spec.decoder.final_norm, f"{spec.decoder.kind}.final_norm", spec.hidden_size
    )
    encoder = _build_encoder(build, spec, embedding, mixers)
    size = embedding_size(spec)
    projected = size != spec.hidden_size
    project = (
        build_linear(build, "head", {"projection": size}, spec.hidden_size, bias=False)
        if projected
        else identity
    )
    head = build_model_head(build, spec, embedding.table)
    assert parameters.shapes == tensor_shapes(spec)
    return Decoder(
        spec=spec,
        parameters=parameters,
        ops=ops,
        key_ranges=mixers.key_ranges,
        rotary_tables=tuple(RotaryTable(rope, parameters.device) for rope in mixers.ropes),
        embedding=embedding,
        blocks=blocks,
        final_norm=final_norm,
        project=project,
        head=head,
        finish_logits=build_finish(spec),
        encoder=encoder,
    )


def _build_encoder(
    build: BuildContext, spec: ModelSpec, embedding: EmbeddingLayer, mixers: MixerBuilder
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
