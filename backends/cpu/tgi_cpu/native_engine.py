"""The thread pool of the native kernels, which runs programs and samples tokens."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_records import TOP_TOKEN, BatchRecord, OpRecord

__all__ = ["Engine", "SamplerHandle"]


@final
class Engine:
    """A pool of native threads that runs programs. The engine owns the scratch memory of the
    threads.
    """

    def __init__(
        self, library: NativeLibrary, num_threads: int, max_ops: int, scratch_floats: int
    ) -> None:
        self.num_threads = num_threads
        self._functions = library.functions
        self._handle = self._functions.tgi_engine_create(num_threads, max_ops, scratch_floats)

    def run(self, program: ctypes.Array[OpRecord], batch: BatchRecord) -> None:
        """Run the operations of `program` in order over one batch."""
        self._functions.tgi_run(self._handle, program, len(program), ctypes.byref(batch))

    def bind(self, program: ctypes.Array[OpRecord], batch: BatchRecord) -> Callable[[], object]:
        """Return a function that calls `run` with these arguments. The memory to which the
        arguments point may change between calls.
        """
        return partial(
            self._functions.tgi_run, self._handle, program, len(program), ctypes.pointer(batch)
        )

    def round_rows(
        self,
        source: int,
        source_stride: int,
        target: npt.NDArray[np.uint16],
        shape: tuple[int, int],
    ) -> None:
        """Round a float32 [rows, columns] matrix to bfloat16 and store it in the rows of `target`.

        `source` is the address of the matrix. `source_stride` is the distance between its rows, in
        floats.
        """
        rows, columns = shape
        self._functions.tgi_round_rows(
            source, source_stride, rows, columns, target.ctypes.data, target.shape[1]
        )

    def sampler(self, vocab_size: int) -> SamplerHandle:
        """Create a sampler that runs in the threads of this engine."""
        return SamplerHandle(self._functions, self._handle, vocab_size, self.num_threads)

    def close(self) -> None:
        """Stop the threads. The method may be called more than once."""
        if self._handle is not None:
            self._functions.tgi_engine_destroy(self._handle)
            self._handle = None


@final
class SamplerHandle:
    """The native sampler with its working memory. The sampler cannot be used after its engine was
    closed.
    """

    def __init__(self, functions: Any, engine: int, vocab_size: int, num_threads: int) -> None:  # noqa: ANN401 - as above
        self._functions = functions
        self._engine = engine
        self._handle = functions.tgi_sampler_create(vocab_size, num_threads)
        weakref.finalize(self, functions.tgi_sampler_destroy, self._handle)

    def bind(
        self, logits: int, stride: int, rows: npt.NDArray[np.void], results: npt.NDArray[np.void]
    ) -> Callable[[], object]:
        """Return a function that calls `sample` with these arguments.

        The memory to which the arguments point may change between calls. The caller must keep this
        memory alive.
        """
        function, handles = self._functions.tgi_sample, (self._engine, self._handle)
        return partial(
            function, *handles, logits, stride, rows.ctypes.data, len(rows), results.ctypes.data
        )

    def sample(
        self, logits: int, stride: int, rows: npt.NDArray[np.void], results: npt.NDArray[np.void]
    ) -> None:
        """Sample one token per row and write it to `results` (`SAMPLE_RESULT`).

        `logits` is the address of float32 [rows, vocab_size] whose rows are `stride` floats apart.
        `rows` (`SAMPLE_ROW`) contains the sampling parameters of each row.
        """
        self.bind(logits, stride, rows, results)()

    def tops(self, num_rows: int, count: int) -> npt.NDArray[np.void]:
        """Return the most likely tokens (`TOP_TOKEN` [count]) that the last call found, ordered by
        row.

        `count` is the total over all rows.
        """
        tops = np.zeros(count, TOP_TOKEN)
        self._functions.tgi_sampler_tops(self._handle, num_rows, tops.ctypes.data)
        return tops
