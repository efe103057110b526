"""The TPU backend of tgi, in JAX. Importing it imports no framework."""

from tgi.backend import Backend, hookimpl
from tgi_tpu.backend import TpuBackend

__all__ = ["TpuBackend", "tgi_backend"]


@hookimpl
def tgi_backend() -> Backend:
    """The TPU backend."""
    return TpuBackend()
