"""Runs a decoder layer by layer on the calibration text."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from tgi.architectures import ModelSpec
from tgi.backend import ModelError
from tgi.backend.records import Int32Array
from tgi.worker.cache_layout import group_kinds
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.gptq.hessians import HessianRecorder
from tgi_torch.model.decoder import Decoder, build_decoder
from tgi_torch.model.layers import StepContext
from tgi_torch.ops import REFERENCE

__all__ = ["LayerRunner"]

_BLOCK_TOKENS = 32


@final
class LayerRunner:
    """A decoder, and the inputs of its next layer for all sequences.

    The sequences run one after the other over the same cache, because each layer reads only keys
    and values that it has written for the same sequence.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, max_tokens: int) -> None:
        self.recorder = HessianRecorder(REFERENCE.linear)
        ops = replace(REFERENCE, linear=self.recorder.linear)
        self.decoder: Decoder = build_decoder(spec, ops, dtype, "cpu")
        self.hidden: list[Tensor] = []  # [tokens, hidden] of each sequence
        self._cache = KVCache.allocate(
            spec, -(-max_tokens // _BLOCK_TOKENS), _BLOCK_TOKENS, dtype, "cpu", num_states=1
        )
        self._has_states = "state" in group_kinds(spec)
        self._contexts: dict[int, StepContext] = {}
        ends, count = [], 0
        for layer in spec.decoder.layers:
            count += len(layer.blocks)
            ends.append(count)
        self._block_ends = ends

    def start(self, sequences: tuple[Int32Array, ...]) -> None:
        """Compute the inputs of the first layer. Raises `ModelError` if each layer has
        additional inputs.
        """
        self.hidden = []
        for ids in sequences:
            context = self._context(len(ids))
            tokens = torch.from_numpy(ids).long()
            x = self.decoder.embedding(tokens, context.metadata.positions)
            if self.decoder.embedding.inputs_of_layers(tokens, x) is not None:
                raise ModelError(
                    "Each layer of this model has additional inputs for each token, which"
                    " `tgi quantize` does not support.",
                    "Serve the model with `--quantize int4` instead.",
                )
            self.hidden.append(x)

    def record(self, layer: int) -> None:
        """Run a layer and replace the Hessians by those of its weights. The inputs remain those of
        the same layer.
        """
        self.recorder.clear()
        self.recorder.is_recording = True
        for x in self.hidden:
            self._run(layer, x)
        self.recorder.is_recording = False

    def advance(self, layer: int) -> None:
        """Run a layer. Its outputs become the inputs of the next layer."""
        self.hidden = [self._run(layer, x) for x in self.hidden]

    def _run(self, layer: int, x: Tensor) -> Tensor:
        context = self._context(len(x))
        if context.metadata.states is not None:
            self._cache.clear_states(context.metadata.states)
        first = self._block_ends[layer - 1] if layer else 0
        for block in self.decoder.blocks[first : self._block_ends[layer]]:
            x = block(x, context)
        return x

    def _context(self, length: int) -> StepContext:
        """Return the context of a step with one sequence of `length` tokens from position 0."""
        if length not in self._contexts:
            positions = torch.arange(length)
            num_blocks = -(-length // _BLOCK_TOKENS)
            metadata = AttentionMetadata(
                positions=positions,
                slot_mapping=positions,
                block_tables=torch.arange(num_blocks, dtype=torch.int32)[None],
                cu_seqlens_q=torch.tensor([0, length], dtype=torch.int32),
                seq_lens=torch.tensor([length], dtype=torch.int32),
                query_lens=(length,),
                context_lens=(length,),
                states=torch.zeros(1, dtype=torch.int64) if self._has_states else None,
            )
            self._contexts[length] = self.decoder.step_context(metadata, self._cache, None)
        return self._contexts[length]
