"""The model that is served when none is named, and a smaller draft of it for speculative decoding.
See docs/demo-model.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tgi.errors import ModelError

__all__ = ["demo_draft_path", "demo_model_path"]


def demo_model_path(log: Callable[[str], None]) -> Path:
    """The directory of the demo model, in Hugging Face's format; its size is logged. Raises
    `ModelError` where it is missing.
    """
    path = _shipped("model")
    size = (path / "model.safetensors").stat().st_size
    log(
        f"The demo is a tiny model ({size / 1e6:.0f} MB) that knows tgi, small sums, spelling,"
        " sorting, JSON and tool calls."
    )
    return path


def demo_draft_path() -> Path:
    """The directory of the draft model; it has the same tokenizer. Raises `ModelError` where it is
    missing.
    """
    return _shipped("draft")


def _shipped(name: str) -> Path:
    path = Path(__file__).parent / name
    if not (path / "model.safetensors").is_file():
        raise ModelError(
            f"The demo's weights are missing from {path}.",
            "Install tgi again, or name a model with --model-id.",
        )
    return path
