"""A decoder that runs as one call into the native kernels per step."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.architectures import ModelSpec
from tgi.backend import Limits
from tgi.worker.parts import Progress
from tgi_cpu.native import BLOCK_TOKENS, BatchRecord, NativeLibrary, OpRecord
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_program import Kind, NativeCache, NativeProgram, build_program
from tgi_cpu.native_sampler import BoundRows, NativeSampler
from tgi_cpu.native_weights import NativeWeights
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.protocols import LoadModel
from tgi_torch.runner.decode_steps import BoundProgram
from tgi_torch.sampling.sampler import SampledSequence
from tgi_torch.weights.loading import load_weights
from tgi_torch.weights.weight_formats import Quantization

__all__ = ["NativeDecodeProgram", "NativeDecoder", "NativeModel", "native_loader"]

_MAX_LOGITS_ROWS = 64  # rows of one pass through the head; more rows go in several
_DEVICE = torch.device("cpu")


@final
class NativeDecoder:
    """Packed weights, before the cache: `tgi_torch.model.protocols.LoadedModel` and
    `tgi_torch.weights.loading.WeightSink`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        library: NativeLibrary,
        num_threads: int,
        quantization: Quantization | None = None,
    ) -> None:
        self.spec = spec
        self.weights = NativeWeights(spec, library, quantization)
        self._library = library
        self._num_threads = num_threads
        self._engine: Engine | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and cache; the residual is float32."""
        return torch.bfloat16

    @property
    def is_chunked(self) -> bool:
        """Attention goes on from what is in the cache."""
        return True

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Pack a part of a weight."""
        assert expert is None, f"{parameter}: the kernels know no experts"
        self.weights.write(parameter, axis, start, piece)

    def with_cache(self, num_blocks: int, block_size: int, limits: Limits) -> NativeModel:
        """Cache, buffers and threads for steps within `limits`."""
        assert block_size == BLOCK_TOKENS, (
            f"the kernels keep {BLOCK_TOKENS} tokens in a block, not {block_size}"
        )
        cache = NativeCache.allocate(self.spec, num_blocks, self._library)
        program = build_program(
            self.spec,
            self.weights,
            self._library,
            cache,
            max_tokens=limits.max_step_tokens,
            max_positions=limits.max_total_tokens,
            max_rows=_MAX_LOGITS_ROWS,
        )
        num_ops = len(program.hidden_ops) + len(program.logits_ops)
        self._engine = Engine(self._library, self._num_threads, num_ops, program.scratch_floats)
        return NativeModel(self.spec, cache, program, self._engine)

    def close(self) -> None:
        """End the threads."""
        if self._engine is not None:
            self._engine.close()


@final
class NativeModel:
    """bf16 weights and cache, f32 residual. Results are views of its own buffers."""

    def __init__(
        self, spec: ModelSpec, cache: NativeCache, program: NativeProgram, engine: Engine
    ) -> None:
        self.spec = spec
        self._cache = cache
        self._program = program
        self.engine = engine
        self._hidden = torch.from_numpy(program.hidden)[:, : spec.hidden_size]
        self._logits = torch.from_numpy(program.logits)[:, : spec.vocab_size]
        self._decode_ops = _decode_ops(program)
        count, num_caching = len(program.hidden_ops), program.num_caching_ops
        self._caching_ops = (OpRecord * num_caching).from_buffer(program.hidden_ops)
        self._remaining_ops = (OpRecord * (count - num_caching)).from_buffer(
            program.hidden_ops, num_caching * ctypes.sizeof(OpRecord)
        )

    @property
    def device(self) -> torch.device:
        """The processor."""
        return _DEVICE

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache."""
        return self._cache.num_blocks

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self._cache.block_size

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer, int64 [N] each."""
        self._cache.copy_blocks(sources.numpy(), targets.numpy())

    def release_state(self, state: int) -> None:
        """The kernels run no model that has states."""

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Hidden vectors float32 after the final norm for int64 [T], of all or of those `wanted`;
        writes all keys and values.
        """
        if wanted is None:
            self.engine.run(self._program.hidden_ops, _batch_record(token_ids, metadata))
            return self._hidden[: len(token_ids)]
        self.engine.run(self._caching_ops, _batch_record(token_ids, metadata))
        self._finish(wanted.numpy(), metadata)
        return self._hidden[: len(wanted)]

    def _finish(self, wanted: npt.NDArray[np.int64], metadata: AttentionMetadata) -> None:
        """What comes after the last keys and values, as a batch of rows of one token each."""
        if not len(wanted):
            return
        for buffer in self._program.carried:
            buffer[: len(wanted)] = buffer[wanted]
        rows = np.searchsorted(metadata.cu_seqlens_q.numpy()[1:], wanted, side="right")
        positions, block_tables = (
            metadata.positions.numpy()[wanted],
            metadata.block_tables.numpy()[rows],
        )
        query_starts, context_lens = (
            np.arange(len(wanted) + 1, dtype=np.int32),
            (positions + 1).astype(np.int32),
        )
        batch = BatchRecord(
            num_tokens=len(wanted),
            num_rows=len(wanted),
            max_blocks=block_tables.shape[1],
            positions=positions.ctypes.data,
            query_starts=query_starts.ctypes.data,
            context_lens=context_lens.ctypes.data,
            block_tables=block_tables.ctypes.data,
        )
        self.engine.run(self._remaining_ops, batch)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [N, vocab] of hidden vectors [N, hidden]."""
        if len(hidden) > _MAX_LOGITS_ROWS:
            return torch.cat(
                [self.logits(part).clone() for part in torch.split(hidden, _MAX_LOGITS_ROWS)]
            )
        self.engine.round_rows(
            hidden.data_ptr(),
            hidden.stride(0),
            self._program.head_input,
            (len(hidden), self.spec.hidden_size),
        )
        self.engine.run(self._program.logits_ops, BatchRecord(num_tokens=len(hidden)))
        logits = self._logits[: len(hidden)]
        softcap = self.spec.head.softcap
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    @property
    def max_decode_rows(self) -> int:
        """Rows of a step that `bind_decode` takes; 0 = none."""
        return _MAX_LOGITS_ROWS if self._decode_ops and self.spec.head.softcap is None else 0

    def bind_decode(
        self, token_ids: Tensor, metadata: AttentionMetadata
    ) -> tuple[Callable[[], object], Tensor]:
        """Layers and head as one call, for rows of one token each, and the logits float32 [n,
        vocab] it fills.
        """
        return (
            self.engine.bind(self._decode_ops, _batch_record(token_ids, metadata)),
            self._logits[: len(token_ids)],
        )


@final
class NativeDecodeProgram:
    """A `tgi_torch.runner.decode_steps.DecodeProgram`: two native calls a step."""

    def __init__(self, model: NativeModel, sampler: NativeSampler) -> None:
        self._model = model
        self._sampler = sampler

    @property
    def max_rows(self) -> int:
        """Rows it can take at once."""
        return self._model.max_decode_rows

    def bind(
        self, token_ids: Tensor, metadata: AttentionMetadata, sequences: list[SampledSequence]
    ) -> BoundProgram:
        """The program over these tensors."""
        forward, logits = self._model.bind_decode(token_ids, metadata)
        return _BoundProgram(forward, self._sampler.bind(logits, sequences))


@final
class _BoundProgram:
    def __init__(self, forward: Callable[[], object], rows: BoundRows) -> None:
        self.forward = forward
        self.sample = rows.sample


def _batch_record(token_ids: Tensor, metadata: AttentionMetadata) -> BatchRecord:
    """The addresses of a step's tensors, which the caller keeps."""
    return BatchRecord(
        num_tokens=len(token_ids),
        num_rows=len(metadata.query_lens),
        max_blocks=metadata.block_tables.shape[1],
        token_ids=token_ids.data_ptr(),
        positions=metadata.positions.data_ptr(),
        slots=metadata.slot_mapping.data_ptr(),
        query_starts=metadata.cu_seqlens_q.data_ptr(),
        context_lens=metadata.seq_lens.data_ptr(),
        block_tables=metadata.block_tables.data_ptr(),
    )


def _decode_ops(program: NativeProgram) -> ctypes.Array[OpRecord]:
    """Layers and head as one program for rows that are all sampled: the final norm writes what the
    head reads.

    Empty where no norm comes last.
    """
    norm = OpRecord.from_buffer_copy(program.hidden_ops[-1])
    if norm.kind != Kind.NORM or norm.target != program.hidden.ctypes.data:
        return (OpRecord * 0)()
    norm.target, norm.target_is_float = program.head_input.ctypes.data, 0
    ops = [*program.hidden_ops[:-1], norm, *program.logits_ops]
    return (OpRecord * len(ops))(*ops)


def native_loader(
    library: NativeLibrary, num_threads: int, quantization: Quantization | None = None
) -> LoadModel:
    """Loads a checkpoint into the native kernels, in bfloat16 or quantized; the spec must be one
    they run whole.
    """

    def load(spec: ModelSpec, dtype: torch.dtype, path: Path, progress: Progress) -> NativeDecoder:
        assert dtype == torch.bfloat16, f"the kernels compute in bfloat16, not {dtype}"
        decoder = NativeDecoder(spec, library, num_threads, quantization)
        load_weights(decoder, path, progress)
        decoder.weights.compress()
        return decoder

    return load
