"""The TPU backend of tgi, written in JAX. Importing this package does not import JAX."""

from tgi.backend import Backend, hookimpl
from tgi_tpu.backend import TpuBackend

__all__ = ["TpuBackend", "tgi_backend"]


@hookimpl
def tgi_backend() -> Backend:
    """Return the TPU backend."""
    return TpuBackend()
