"""The built-in CPU backend of tgi. Importing this package does not import torch."""

from tgi.backend import Backend, hookimpl
from tgi_cpu.backend import CpuBackend

__all__ = ["CpuBackend", "tgi_backend"]


@hookimpl
def tgi_backend() -> Backend:
    """Return the CPU backend."""
    return CpuBackend()
