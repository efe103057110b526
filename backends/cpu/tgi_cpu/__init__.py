"""The embedded CPU backend of tgi. Importing it imports no framework."""

from tgi.backend import Backend, hookimpl
from tgi_cpu.backend import CpuBackend

__all__ = ["CpuBackend", "tgi_backend"]


@hookimpl
def tgi_backend() -> Backend:
    """The CPU backend."""
    return CpuBackend()
