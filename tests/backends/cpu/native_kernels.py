"""What the tests of the native kernels share."""

from __future__ import annotations

import shutil

import pytest

from tgi_cpu.native import NativeLibrary, load_library

__all__ = ["require_library"]


def require_library() -> NativeLibrary:
    """The kernels; skips the test where nothing could build or run them."""
    library = load_library()
    if library is None and not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("there is no C++ compiler here to build the native kernels with")
    assert library is not None, "a C++ compiler is here, but the native kernels were not built: `pip install -e backends/cpu`"
    if not library.is_supported:
        pytest.skip("this processor lacks AVX-512 with bfloat16 products")
    return library
