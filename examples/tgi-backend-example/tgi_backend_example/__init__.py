"""The example backend. The core imports this module, so it must not import a framework."""

from tgi.backend import Backend, hookimpl
from tgi_backend_example.backend import ExampleBackend

__all__ = ["tgi_backend"]


@hookimpl
def tgi_backend() -> Backend:
    """The backend of this plugin."""
    return ExampleBackend()
