"""The key-value cache of the native kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures import Attention, ModelSpec
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_records import BLOCK_TOKENS, PANEL_COLUMNS, round_up

__all__ = ["NativeCache"]


@final
@dataclass(frozen=True)
class NativeCache:
    """The key-value cache in the kernels' layout.

    Each layer has an array [blocks, values of a block]. The values of a block are ordered by kv
    head.
    """

    keys: tuple[npt.NDArray[np.uint16], ...]
    values: tuple[npt.NDArray[np.uint16], ...]
    num_blocks: int
    block_size: int = BLOCK_TOKENS

    @classmethod
    def allocate(cls, spec: ModelSpec, num_blocks: int, library: NativeLibrary) -> NativeCache:
        """Allocate `num_blocks` blocks. The memory of a page is allocated when the page is first
        used.
        """

        def reserve(per_block: int) -> npt.NDArray[np.uint16]:
            return (
                library.allocate(2 * num_blocks * per_block)
                .view(np.uint16)
                .reshape(num_blocks, per_block)
            )

        layers = _attentions(spec)
        keys = tuple(
            reserve(layer.num_kv_heads * layer.head_dim * BLOCK_TOKENS) for layer in layers
        )
        sizes = (
            layer.num_kv_heads * round_up(layer.head_dim, PANEL_COLUMNS) * BLOCK_TOKENS
            for layer in layers
        )
        return cls(keys, tuple(map(reserve, sizes)), num_blocks)

    def copy_blocks(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Copy whole blocks in every layer. All sources are read before any target is written."""
        for side in (*self.keys, *self.values):
            side[targets] = side[sources]


def _attentions(spec: ModelSpec) -> tuple[Attention, ...]:
    mixers = (
        branch.mixer
        for layer in spec.decoder.layers
        for block in layer.blocks
        for branch in block.branches
    )
    return tuple(mixer for mixer in mixers if isinstance(mixer, Attention))
