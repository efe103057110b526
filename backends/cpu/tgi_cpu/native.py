"""The library of native kernels and its memory.

The library is built at installation if a compiler is available. Without the library the backend
works, but more slowly. When the library is loaded, its version and the sizes of its records are
compared with the version and the records in Python.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi_cpu import machine
from tgi_cpu.native_records import (
    LIBRARY_VERSION,
    OUTLIER,
    PANEL_COLUMNS,
    RECORD_BYTES,
    AttentionRecord,
    QuantizedRecord,
    round_up,
)

__all__ = ["NativeLibrary", "load_library"]

_HUGE_PAGE = 2 << 20
_LIBRARY_GLOB = "_native*.so"


@final
@dataclass(frozen=True)
class NativeLibrary:
    """The loaded library. Its functions release the Python interpreter lock while they run."""

    functions: Any  # ctypes functions have no static types
    num_threads: int = field(default_factory=machine.num_threads)  # threads that pack weights

    @property
    def is_supported(self) -> bool:
        """Whether this processor has the instructions that the kernels need."""
        return bool(self.functions.tgi_supported())

    def allocate(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Allocate zeroed bytes, aligned to huge pages. The memory of a page is allocated when the
        page is first used.
        """
        size = round_up(max(num_bytes, 1), _HUGE_PAGE)
        # The mapping is private, because systems that allow huge pages only for private memory
        # would use small pages for a shared mapping, even after `madvise`.
        pages = np.frombuffer(
            mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8
        )
        start = -pages.ctypes.data % _HUGE_PAGE
        aligned = pages[start : start + size]
        self.functions.tgi_advise_huge(aligned.ctypes.data, size)
        return aligned[:num_bytes]

    def scratch_floats(self, layer: AttentionRecord) -> int:
        """Number of floats of scratch memory that a thread needs for this attention layer."""
        return int(self.functions.tgi_scratch_floats(ctypes.byref(layer)))

    def quantized_scratch_floats(self, weight: QuantizedRecord, num_inputs: int) -> int:
        """Number of floats of scratch memory that a thread needs to multiply by this weight."""
        return int(self.functions.tgi_quantized_scratch_floats(ctypes.byref(weight), num_inputs))

    def quantize(
        self,
        rows: npt.NDArray[np.float32],
        target: QuantizedRecord,
        *,
        first_column: int,
        gate_half: int = -1,
    ) -> None:
        """Quantize contiguous rows [rows, inputs] of a weight into `target`. See
        `tgi_quantize`.
        """
        self._store_rows(self.functions.tgi_quantize, rows, target, first_column, gate_half)

    def store_codes(
        self,
        codes: npt.NDArray[np.uint8],
        target: QuantizedRecord,
        *,
        first_column: int,
        gate_half: int = -1,
    ) -> None:
        """Store contiguous codes [rows, inputs] in `target`. See `tgi_store_codes`."""
        self._store_rows(self.functions.tgi_store_codes, codes, target, first_column, gate_half)

    def dequantize(
        self, weight: QuantizedRecord, num_columns: int, num_inputs: int
    ) -> npt.NDArray[np.float32]:
        """Return the first `num_columns` columns of a weight, float32 [columns, inputs]."""
        target = np.empty((num_columns, num_inputs), np.float32)
        self.functions.tgi_dequantize(
            ctypes.byref(weight), num_inputs, 0, num_columns, target.ctypes.data
        )
        return target

    def _store_rows(
        self,
        store: Callable[..., None],
        rows: npt.NDArray[Any],
        target: QuantizedRecord,
        first_column: int,
        gate_half: int,
    ) -> None:
        address, row_bytes, inputs = rows.ctypes.data, rows.strides[0], rows.shape[1]

        def store_rows(first: int, last: int) -> None:
            source = (address + first * row_bytes, last - first, inputs)
            store(*source, ctypes.byref(target), first_column + first, gate_half)

        self._share_rows(len(rows), store_rows)

    def pack(
        self,
        piece: npt.NDArray[np.uint16],
        target: npt.NDArray[np.uint16],
        total_inputs: int,
        *,
        first_column: int,
        first_input: int = 0,
        gate_half: int = -1,
    ) -> None:
        """Pack a contiguous bf16 piece [rows, inputs] of a weight into the panels of `target`. See
        `tgi_pack`.
        """
        address, row_bytes, inputs = piece.ctypes.data, piece.strides[0], piece.shape[1]
        panels = target.ctypes.data

        def pack_rows(first: int, last: int) -> None:
            place = (total_inputs, first_column + first, first_input, gate_half)
            self.functions.tgi_pack(
                address + first * row_bytes, last - first, inputs, panels, *place
            )

        self._share_rows(len(piece), pack_rows)

    def _share_rows(self, num_rows: int, work: Callable[[int, int], None]) -> None:
        """Divide the rows among threads and call `work(first, last)` for each part.

        Each part begins at a panel.
        """
        share = round_up(-(-num_rows // self.num_threads), PANEL_COLUMNS)
        parts = [(first, min(first + share, num_rows)) for first in range(0, num_rows, share)]
        if len(parts) == 1:
            work(*parts[0])
            return
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(work, *zip(*parts, strict=True)))

    def compressed_panel_bytes(self, num_inputs: int) -> int:
        """Size in bytes of a compressed panel."""
        return int(self.functions.tgi_compressed_panel_bytes(num_inputs))

    def compressed_scratch_floats(self, num_inputs: int) -> int:
        """Number of floats of scratch memory that a thread needs for a compressed weight."""
        return int(self.functions.tgi_compressed_scratch_floats(num_inputs))

    def compress(
        self, panels: npt.NDArray[np.uint16], num_inputs: int
    ) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int32]] | None:
        """Compress bf16 panels in place. Returns the outliers (`OUTLIER`) and int32 [panels + 1],
        the index of each panel's first outlier.

        If compression would save too little, the panels are not changed and the result is None.
        """
        num_panels = panels.size // (round_up(num_inputs, 2) * PANEL_COLUMNS)
        first_exponents = np.empty(num_panels, np.uint8)
        count = self.functions.tgi_count_outliers(
            panels.ctypes.data, num_panels, num_inputs, first_exponents.ctypes.data
        )
        if count < 0 or self.compressed_panel_bytes(num_inputs) * num_panels >= panels.nbytes:
            return None
        outliers, starts = np.empty(count, OUTLIER), np.empty(num_panels + 1, np.int32)
        self.functions.tgi_compress(
            panels.ctypes.data,
            num_panels,
            num_inputs,
            first_exponents.ctypes.data,
            panels.ctypes.data,
            outliers.ctypes.data,
            starts.ctypes.data,
        )
        return outliers, starts

    def release(self, memory: npt.NDArray[np.uint8]) -> None:
        """Release the whole huge pages in `memory`, which is part of an `allocate` result, to the
        system. The content of these pages is then zero.
        """
        start = -memory.ctypes.data % _HUGE_PAGE
        size = (memory.size - start) // _HUGE_PAGE * _HUGE_PAGE
        if size > 0:
            self.functions.tgi_release(memory.ctypes.data + start, size)


def load_library(folder: Path | None = None) -> NativeLibrary | None:
    """Load the library from this module's folder, or `folder`. Returns None if it was not built."""
    paths = sorted((folder or Path(__file__).parent).glob(_LIBRARY_GLOB))
    if not paths:
        return None
    functions: Any = ctypes.CDLL(str(paths[0]))
    _check_version(functions, paths[0])
    _declare_functions(functions)
    for number, expected in enumerate(RECORD_BYTES):
        found = functions.tgi_record_size(number)
        if expected != found:
            raise ImportError(
                f"{paths[0].name} was built from other sources: its record {number} has {found}"
                f" bytes, but {expected} bytes are expected. Build the library again."
            )
    return NativeLibrary(functions)


def _check_version(functions: Any, path: Path) -> None:  # noqa: ANN401 - ctypes types them at run time
    """Raise `ImportError` if the library was built from sources with another interface."""
    version = 1  # of libraries without `tgi_version`
    if hasattr(functions, "tgi_version"):
        _declare(functions.tgi_version, c_int32)
        version = functions.tgi_version()
    if version != LIBRARY_VERSION:
        raise ImportError(
            f"{path.name} has version {version} of the native interface, but version"
            f" {LIBRARY_VERSION} is expected. Build the library again:"
            " `python setup.py build_ext --inplace` in backends/cpu, or reinstall tgi-cpu."
        )


def _declare_functions(functions: Any) -> None:  # noqa: ANN401 - ctypes types them at run time
    """Declare the signature of every function of the library."""
    _declare(functions.tgi_supported, c_int32)
    _declare(functions.tgi_record_size, c_int64, c_int32)
    _declare(functions.tgi_scratch_floats, c_int64, c_void_p)
    _declare(functions.tgi_advise_huge, None, c_void_p, c_int64)
    _declare(functions.tgi_release, None, c_void_p, c_int64)
    _declare(functions.tgi_compressed_panel_bytes, c_int64, c_int64)
    _declare(functions.tgi_compressed_scratch_floats, c_int64, c_int64)
    _declare(functions.tgi_count_outliers, c_int64, c_void_p, c_int64, c_int64, c_void_p)
    _declare(functions.tgi_compress, None, c_void_p, c_int64, c_int64, *[c_void_p] * 4)
    _declare(
        functions.tgi_pack,
        None,
        c_void_p,
        c_int64,
        c_int64,
        c_void_p,
        c_int64,
        c_int64,
        c_int64,
        c_int32,
    )
    rows = (c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int32)
    _declare(functions.tgi_quantize, None, *rows)
    _declare(functions.tgi_store_codes, None, *rows)
    _declare(functions.tgi_dequantize, None, c_void_p, c_int64, c_int64, c_int64, c_void_p)
    _declare(functions.tgi_quantized_scratch_floats, c_int64, c_void_p, c_int64)
    _declare(functions.tgi_engine_create, c_void_p, c_int32, c_int64, c_int64)
    _declare(functions.tgi_engine_destroy, None, c_void_p)
    _declare(functions.tgi_run, None, c_void_p, c_void_p, c_int64, c_void_p)
    _declare(functions.tgi_round_rows, None, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_int64)
    _declare(functions.tgi_sampler_create, c_void_p, c_int64, c_int32)
    _declare(functions.tgi_sampler_destroy, None, c_void_p)
    _declare(
        functions.tgi_sample,
        None,
        c_void_p,
        c_void_p,
        c_void_p,
        c_int64,
        c_void_p,
        c_int64,
        c_void_p,
    )
    _declare(functions.tgi_sampler_tops, None, c_void_p, c_int64, c_void_p)


def _declare(function: Any, result: Any, *arguments: Callable[..., object]) -> None:  # noqa: ANN401 - ctypes' own types
    function.restype = result
    function.argtypes = arguments
