"""A decoder that runs as one call into the native kernels per step."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from tgi.architectures import ModelSpec
from tgi_cpu.native import BatchRecord, Engine, NativeLibrary
from tgi_cpu.native_program import NativeCache, NativeProgram, build_program
from tgi_cpu.native_weights import NativeWeights
from tgi_torch.attention import AttentionMetadata

__all__ = ["NativeDecoder"]

_MAX_LOGITS_ROWS = 64  # rows of one pass through the head; more rows go in several


@final
class NativeDecoder:
    """bf16 weights, bf16 cache, f32 residual. Its results are views of its own buffers, good until the next step."""

    def __init__(self, spec: ModelSpec, library: NativeLibrary, num_threads: int) -> None:
        self.spec = spec
        self.weights = NativeWeights(spec, library)
        self._library = library
        self._num_threads = num_threads
        self._program: NativeProgram | None = None
        self._engine: Engine | None = None
        self._hidden = self._logits = torch.empty(0)
        self._head_input = torch.empty(0)

    def reserve_cache(self, num_blocks: int, *, max_tokens: int, max_positions: int) -> NativeCache:
        """Cache and buffers for steps of `max_tokens` tokens at positions below `max_positions`."""
        cache = NativeCache.allocate(self.spec, num_blocks, self._library)
        self._program = build_program(
            self.spec,
            self.weights,
            self._library,
            cache,
            max_tokens=max_tokens,
            max_positions=max_positions,
            max_rows=_MAX_LOGITS_ROWS,
        )
        self._engine = Engine(self._library, self._num_threads, self._program.scratch_floats)
        self._hidden = torch.from_numpy(self._program.hidden)[:, : self.spec.hidden_size]
        self._head_input = torch.from_numpy(self._program.head_input.view(np.int16)).view(torch.bfloat16)[
            :, : self.spec.hidden_size
        ]
        self._logits = torch.from_numpy(self._program.logits)[:, : self.spec.vocab_size]
        return cache

    def forward(self, token_ids: Tensor, metadata: AttentionMetadata, kv_cache: NativeCache) -> Tensor:
        """Hidden vectors float32 [T, hidden] after the final norm for `token_ids` int64 [T]; writes their keys and values."""
        del kv_cache  # the program knows its own
        assert self._program is not None
        assert self._engine is not None
        num_tokens, num_rows = len(token_ids), len(metadata.query_lens)
        batch = BatchRecord(
            num_tokens=num_tokens,
            num_rows=num_rows,
            max_blocks=metadata.block_tables.shape[1],
            token_ids=token_ids.data_ptr(),
            positions=metadata.positions.data_ptr(),
            slots=metadata.slot_mapping.data_ptr(),
            query_starts=metadata.cu_seqlens_q.data_ptr(),
            context_lens=metadata.seq_lens.data_ptr(),
            block_tables=metadata.block_tables.data_ptr(),
        )
        self._engine.run(self._program.hidden_ops, batch)
        return self._hidden[:num_tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [N, vocab] of hidden vectors [N, hidden]."""
        if len(hidden) > _MAX_LOGITS_ROWS:
            return torch.cat([self.logits(part).clone() for part in torch.split(hidden, _MAX_LOGITS_ROWS)])
        assert self._program is not None
        assert self._engine is not None
        self._head_input[: len(hidden)] = hidden
        self._engine.run(self._program.logits_ops, BatchRecord(num_tokens=len(hidden)))
        logits = self._logits[: len(hidden)]
        softcap = self.spec.head.softcap
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    def close(self) -> None:
        """End the threads."""
        if self._engine is not None:
            self._engine.close()
