"""The interface through which worker and runner call a model. A backend may implement its own
model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import Limits
from tgi.worker.cache_format import CacheCoding
from tgi.worker.parts import Progress
from tgi_torch.attention.paged import AttentionMetadata

__all__ = ["LoadModel", "LoadedModel", "Model"]


class Model(Protocol):
    """Weights with a paged key-value cache, ready to run.

    Blocks are uninitialised and are not cleared between sequences.
    """

    @property
    def spec(self) -> ModelSpec | GenericSpec:
        """The specification that the model was built from."""

    @property
    def device(self) -> torch.device:
        """The device of inputs and outputs."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks in the cache."""

    @property
    def block_size(self) -> int:
        """Number of tokens in a block."""

    def copy_blocks(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole blocks in every layer. `sources` and `targets` are int64 [N].

        All sources are read before any target is written.
        """

    def copy_states(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole states in every recurrent layer. `sources` and `targets` are int64 [N].

        All sources are read before any target is written.
        """

    def release_state(self, state: int) -> None:
        """Release the state with index `state` in cache group `state`. The runner calls this method
        when the sequence of this state has ended.
        """

    def forward(
        self, token_ids: Tensor, metadata: AttentionMetadata, wanted: Tensor | None = None
    ) -> Tensor:
        """Compute the hidden vectors after the final norm for int64 [T].

        Returns [T, hidden], or [N, hidden] if `wanted` contains the ascending indices int64 [N] of
        some tokens. With `wanted`, the operations after the last cache write run only for these
        tokens. The result is valid until the next call.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Compute logits float32 [N, vocab] of hidden vectors [N, hidden].

        The result is valid until the next call.
        """


class LoadedModel(Protocol):
    """Weights in memory, before the size of the cache is known."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and cache."""

    @property
    def is_chunked(self) -> bool:
        """Whether a prompt may be computed in chunks."""

    def with_cache(
        self,
        num_blocks: int,
        block_size: int,
        limits: Limits,
        *,
        num_states: int = 0,
        coding: CacheCoding | None = None,
    ) -> Model:
        """Reserve a cache and all other memory that steps within `limits` need. `num_states` is the
        number of recurrent states, including those of snapshots. With a `coding`, the cache
        contains codes of 8 bits.

        Raises MemoryError or RuntimeError if memory runs out.
        """

    def close(self) -> None:
        """Release the threads and the memory of the model. The method may be called more than
        once.
        """


LoadModel = Callable[[ModelSpec, torch.dtype, Path, Progress], LoadedModel]
"""Builds a model and reads its weights. Raises `ModelError`."""
