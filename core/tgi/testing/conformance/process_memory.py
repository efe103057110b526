"""Measures the resident memory of this process after the C library has returned free memory to the
system.
"""

from __future__ import annotations

import ctypes
import gc

import psutil  # type: ignore[import-untyped]

__all__ = ["process_bytes"]


def process_bytes() -> int:
    """Return the resident memory of this process in bytes.

    The C library keeps memory that was released and uses it for later allocations, so a leak would
    stay hidden. This function returns such memory to the system first, if the C library can do so.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    num_bytes: int = psutil.Process().memory_info().rss
    return num_bytes
