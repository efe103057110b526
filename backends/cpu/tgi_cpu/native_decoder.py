"""A decoder that runs each step in one or two calls of the native kernels."""

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
from tgi.checkpoints.quantized import QuantizedMatrix
from tgi.worker.cache_format import CacheCoding
from tgi.worker.parts import Progress
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_builder import Kind
from tgi_cpu.native_cache import NativeCache
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_program import NativeProgram, build_program
from tgi_cpu.native_records import BLOCK_TOKENS, BatchRecord, OpRecord
from tgi_cpu.native_sampler import BoundRows, NativeSampler
from tgi_cpu.native_weights import NativeWeights
from tgi_torch.attention.paged import AttentionMetadata
from tgi_torch.model.protocols import LoadModel
from tgi_torch.runner.decode_steps import BoundProgram
from tgi_torch.sampling.protocols import SampledSequence
from tgi_torch.weights.checkpoint_formats import checkpoint_formats
from tgi_torch.weights.loading import load_weights
from tgi_torch.weights.weight_formats import MatrixFormats

__all__ = ["NativeDecodeProgram", "NativeDecoder", "NativeModel", "native_loader"]

_MAX_LOGITS_ROWS = 64  # maximum rows per call of the head; more rows need several calls
_DEVICE = torch.device("cpu")


@final
class NativeDecoder:
    """The packed weights of a model, before the cache is allocated.

    Implements `tgi_torch.model.protocols.LoadedModel` and `tgi_torch.weights.loading.WeightSink`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        library: NativeLibrary,
        num_threads: int,
        quantization: MatrixFormats | None = None,
    ) -> None:
        self.spec = spec
        self.weights = NativeWeights(spec, library, quantization)
        self._library = library
        self._num_threads = num_threads
        self._engine: Engine | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and cache. The dtype of the residual is float32."""
        return torch.bfloat16

    @property
    def is_chunked(self) -> bool:
        """The value is True, because attention also reads the keys and values of earlier prefill
        chunks.
        """
        return True

    def write(
        self, parameter: str, expert: int | None, *, axis: int, start: int, piece: Tensor
    ) -> None:
        """Pack `piece`, the part of `parameter` that begins at index `start` of `axis`."""
        assert expert is None, f"{parameter}: the kernels do not support experts"
        self.weights.write(parameter, axis, start, piece)

    def takes(self, parameter: str) -> bool:
        """Whether `write_quantized` stores the parameter in the checkpoint's format."""
        return self.weights.takes(parameter)

    def write_quantized(
        self, parameter: str, expert: int | None, first_row: int, piece: QuantizedMatrix
    ) -> None:
        """Store rows of a quantized parameter, beginning with `first_row`."""
        assert expert is None, f"{parameter}: the kernels do not support experts"
        self.weights.write_quantized(parameter, first_row, piece)

    def with_cache(
        self,
        num_blocks: int,
        block_size: int,
        limits: Limits,
        *,
        num_states: int = 0,
        coding: CacheCoding | None = None,
    ) -> NativeModel:
        """Allocate the cache, buffers and threads for steps within `limits`. States are not
        allocated, because the native kernels do not support models with a recurrent state.
        """
        del num_states
        assert block_size == BLOCK_TOKENS, (
            f"the kernels use blocks of {BLOCK_TOKENS} tokens, not {block_size}"
        )
        cache = NativeCache.allocate(self.spec, num_blocks, self._library, coding)
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
        """Stop the threads."""
        if self._engine is not None:
            self._engine.close()


@final
class NativeModel:
    """A model with bfloat16 weights and cache and a float32 residual.

    Results are views of the model's buffers, and the next call overwrites these buffers.
    """

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
        """The device of the model, which is the CPU."""
        return _DEVICE

    @property
    def num_blocks(self) -> int:
        """Number of blocks in the cache."""
        return self._cache.num_blocks

    @property
    def block_size(self) -> int:
        """Number of tokens in a block."""
        return self._cache.block_size

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer. `sources` and `targets` are int64 [N]."""
        self._cache.copy_blocks(sources.numpy(), targets.numpy())

    def copy_states(self, sources: Tensor, targets: Tensor) -> None:
        """Do nothing, because the native kernels do not support models with a recurrent state."""

    def release_state(self, state: int) -> None:
        """Do nothing, because the native kernels do not support models with a recurrent state."""

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Compute the hidden vectors after the final norm of the int64 tokens [T].

        Writes the keys and values of all tokens to the cache. Returns float32 [T, hidden], or only
        the rows with the indices `wanted`.
        """
        if wanted is None:
            self.engine.run(self._program.hidden_ops, _batch_record(token_ids, metadata))
            return self._hidden[: len(token_ids)]
        self.engine.run(self._caching_ops, _batch_record(token_ids, metadata))
        self._finish(wanted.numpy(), metadata)
        return self._hidden[: len(wanted)]

    def _finish(self, wanted: npt.NDArray[np.int64], metadata: AttentionMetadata) -> None:
        """Run the operations after the last write to the cache, for the `wanted` tokens only.

        Each of these tokens becomes a separate row.
        """
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
        """Compute the logits float32 [N, vocab] of hidden vectors [N, hidden]."""
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
        """Maximum number of rows that `bind_decode` accepts. The number is 0 if the model does not
        support `bind_decode`.
        """
        return _MAX_LOGITS_ROWS if self._decode_ops and self.spec.head.softcap is None else 0

    def bind_decode(
        self, token_ids: Tensor, metadata: AttentionMetadata
    ) -> tuple[Callable[[], object], Tensor]:
        """Return a call that runs the layers and the head, and the logits that it writes.

        Each of the n rows must contain one token. The logits are float32 [n, vocab].
        """
        return (
            self.engine.bind(self._decode_ops, _batch_record(token_ids, metadata)),
            self._logits[: len(token_ids)],
        )


@final
class NativeDecodeProgram:
    """A `tgi_torch.runner.decode_steps.DecodeProgram` that makes two native calls per step."""

    def __init__(self, model: NativeModel, sampler: NativeSampler) -> None:
        self._model = model
        self._sampler = sampler

    @property
    def max_rows(self) -> int:
        """Maximum number of rows of a step."""
        return self._model.max_decode_rows

    def bind(
        self, token_ids: Tensor, metadata: AttentionMetadata, sequences: list[SampledSequence]
    ) -> BoundProgram:
        """Create a program that reads these tensors at each call."""
        forward, logits = self._model.bind_decode(token_ids, metadata)
        return _BoundProgram(forward, self._sampler.bind(logits, sequences))


@final
class _BoundProgram:
    def __init__(self, forward: Callable[[], object], rows: BoundRows) -> None:
        self.forward = forward
        self.sample = rows.sample


def _batch_record(token_ids: Tensor, metadata: AttentionMetadata) -> BatchRecord:
    """Build the record of a step from its tensors, which the caller must keep alive."""
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
    """Build one program of the layers and the head for steps that sample every row.

    In this program the final norm writes directly to the input of the head. The program is empty
    if the last operation of the layers is not a norm.
    """
    norm = OpRecord.from_buffer_copy(program.hidden_ops[-1])
    if norm.kind != Kind.NORM or norm.target != program.hidden.ctypes.data:
        return (OpRecord * 0)()
    norm.target, norm.target_is_float = program.head_input.ctypes.data, 0
    ops = [*program.hidden_ops[:-1], norm, *program.logits_ops]
    return (OpRecord * len(ops))(*ops)


def native_loader(
    library: NativeLibrary, num_threads: int, quantization: MatrixFormats | None = None
) -> LoadModel:
    """Create a function that loads a checkpoint into the native kernels, optionally quantized.

    Weights that are already quantized keep their format.

    The kernels must support the whole spec.
    """

    def load(spec: ModelSpec, dtype: torch.dtype, path: Path, progress: Progress) -> NativeDecoder:
        assert dtype == torch.bfloat16, f"the kernels compute in bfloat16, not {dtype}"
        formats = quantization or checkpoint_formats(spec, path)
        decoder = NativeDecoder(spec, library, num_threads, formats)
        load_weights(decoder, path, progress)
        decoder.weights.compress()
        return decoder

    return load
