"""What the worker and the runner ask of a model, so that a backend may bring one of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import Limits
from tgi.worker.parts import Progress
from tgi_torch.attention.paged import AttentionMetadata

__all__ = ["LoadModel", "LoadedModel", "Model"]


class Model(Protocol):
    """Weights with a paged key-value cache, ready to run. Blocks start undefined; nobody clears
    them between sequences.
    """

    @property
    def spec(self) -> ModelSpec | GenericSpec:
        """What it was built from."""

    @property
    def device(self) -> torch.device:
        """Where inputs and outputs lie."""

    @property
    def num_blocks(self) -> int:
        """Blocks of the cache."""

    @property
    def block_size(self) -> int:
        """Tokens of a block."""

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer, int64 [N] each; all sources are read before any target
        is written.
        """

    def release_state(self, state: int) -> None:
        """The sequence that had this place in the cache group `state` is gone."""

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Hidden vectors after the final norm for int64 [T]; valid until the next call.

        [T, hidden], or [N, hidden] of the tokens `wanted`, int64 [N] ascending: what comes after
        the last keys and values is then computed for them alone.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits float32 [N, vocab] of hidden vectors [N, hidden]; valid until the next call."""


class LoadedModel(Protocol):
    """Weights in memory, before it is known how much is left for a cache."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and cache."""

    @property
    def is_chunked(self) -> bool:
        """Whether a prompt may be computed in parts."""

    def with_cache(self, num_blocks: int, block_size: int, limits: Limits) -> Model:
        """Reserve a cache, and whatever else steps within `limits` need.

        Raises MemoryError or RuntimeError if memory runs out.
        """

    def close(self) -> None:
        """Let go of threads and memory of its own. Idempotent."""


LoadModel = Callable[[ModelSpec, torch.dtype, Path, Progress], LoadedModel]
"""Builds a model and reads its weights. Raises `ModelError`."""
