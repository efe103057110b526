"""The demo model, and a smaller draft model for speculative decoding. See docs/demo-model.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tgi.errors import ModelError

__all__ = ["demo_draft_path", "demo_model_path"]


def demo_model_path(log: Callable[[str], None]) -> Path:
    """The folder of the demo model in Hugging Face's format. Logs the size of the model. Raises
    `ModelError` if the weights are missing.
    """
    path = _shipped("model")
    size = (path / "model.safetensors").stat().st_size
    log(
        f"The demo model is tiny ({size / 1e6:.0f} MB). It answers questions about tgi, small sums,"
        " spelling, sorting, JSON and tool calls."
    )
    return path


def demo_draft_path() -> Path:
    """The folder of the draft model, which has the same tokenizer. Raises `ModelError` if the
    weights are missing.
    """
    return _shipped("draft")


def _shipped(name: str) -> Path:
    path = Path(__file__).parent / name
    if not (path / "model.safetensors").is_file():
        raise ModelError(
            f"The weights of the demo model are missing from {path}.",
            "Install tgi again, or choose a model with `--model-id`.",
        )
    return path
