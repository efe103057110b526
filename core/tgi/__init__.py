"""tgi: serve large language models over HTTP on any accelerator."""

__version__ = "4.0.0.dev0"
__all__ = ["__version__"]
