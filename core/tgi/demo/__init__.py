"""The model that is served when none is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tgi.demo.random_model import write_random_model

__all__ = ["demo_model_path"]


def demo_model_path(log: Callable[[str], None]) -> Path:
    """The directory of the demo model, in Hugging Face's format.

    Where the weights are not part of the installation, a tiny random checkpoint takes their place, and `log` is told so.
    """
    shipped = Path(__file__).parent / "model"
    if (shipped / "model.safetensors").is_file():
        return shipped
    path = write_random_model()
    log(f"The demo model's weights are not installed: serving random weights from {path}; the answers mean nothing.")
    return path
