"""One attention layer of the native kernels with a cache of codes."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.backends.cpu.kv_cache.codes import Codes, Floats
from tgi.architectures import Attention, Embedding, Head, Layer, ModelSpec, Stack
from tgi.architectures.spec import Block, Branch
from tgi.checkpoints.quantized import CodeKind
from tgi.worker.cache_format import CACHE_FORMATS, CacheCoding, CacheScales
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_builder import Kind
from tgi_cpu.native_cache import NativeCache
from tgi_cpu.native_engine import Engine
from tgi_cpu.native_records import (
    BLOCK_TOKENS,
    PANEL_COLUMNS,
    AttentionRecord,
    BatchRecord,
    OpRecord,
    round_up,
)

NUM_BLOCKS = 24


class NativeLayer:
    """A layer with `num_heads` query heads and `num_kv_heads` kv heads. Every byte of the cache is
    0xff before it is written. This byte is NaN in the floats and in the scales.
    """

    def __init__(
        self,
        library: NativeLibrary,
        name: str,
        *,
        num_heads: int = 4,
        num_kv_heads: int = 2,
        head_dim: int = 64,
        scales: CacheScales | None = None,
        **fields: Any,
    ) -> None:
        self.library = library
        self.name = name
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        coding = CacheCoding(CACHE_FORMATS[name], (scales or CacheScales(),))
        attention = Attention(num_heads, num_kv_heads, head_dim, scale=1.0)
        block = Block((Branch(attention),))
        decoder = Stack("decoder", (Layer((block,)),))
        spec = ModelSpec("test", 8, 8, Embedding(), (decoder,), Head(tied=True), (), 0)
        self.cache = NativeCache.allocate(spec, NUM_BLOCKS, library, coding)
        for side in (*self.cache.keys, *self.cache.values):
            side[...] = 0xFF
        self.record = AttentionRecord(
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            **{"scale": head_dim**-0.5, **fields},
            **self.cache.fields[0],
        )

    def write(self, keys: Floats, values: Floats, slots: npt.NDArray[np.int64]) -> None:
        """Write keys and values [tokens, kv heads, head_dim] of one row."""
        count = len(keys)
        columns = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        source = np.zeros((count, round_up(columns, PANEL_COLUMNS)), np.float32)
        queries = np.zeros((count, self.num_heads * self.head_dim), np.float32)
        flat = [queries, keys.reshape(count, -1), values.reshape(count, -1)]
        source[:, :columns] = np.concatenate(flat, axis=1)
        target = np.zeros(
            (count, round_up(self.num_heads * self.head_dim, PANEL_COLUMNS)), np.uint16
        )
        starts = np.array([0, count], np.int32)
        positions = np.arange(count)
        batch = BatchRecord(
            num_tokens=count,
            num_rows=1,
            positions=positions.ctypes.data,
            slots=slots.ctypes.data,
            query_starts=starts.ctypes.data,
        )
        self._run(Kind.QKV, source, target, batch)

    def attend(self, queries: Floats, table: list[int], context: int) -> npt.NDArray[np.float32]:
        """Compute the last queries [tokens, heads, head_dim] of a sequence of `context` tokens."""
        count = len(queries)
        columns = self.num_heads * self.head_dim
        source = np.zeros((count, round_up(columns, PANEL_COLUMNS)), np.uint16)
        rounded = torch.from_numpy(queries.reshape(count, columns)).bfloat16()
        source[:, :columns] = rounded.view(torch.int16).numpy().view(np.uint16)
        target = np.zeros_like(source)
        starts, lens = np.array([0, count], np.int32), np.array([context], np.int32)
        positions = np.arange(context - count, context)
        blocks = np.array(table, np.int32)
        batch = BatchRecord(
            num_tokens=count,
            num_rows=1,
            max_blocks=len(table),
            positions=positions.ctypes.data,
            query_starts=starts.ctypes.data,
            context_lens=lens.ctypes.data,
            block_tables=blocks.ctypes.data,
        )
        self._run(Kind.ATTENTION, source, target, batch)
        result = torch.from_numpy(target.view(np.int16)).view(torch.bfloat16).float().numpy()
        return result[:, :columns].reshape(count, self.num_heads, self.head_dim)

    def stored(self, slots: npt.NDArray[np.int64]) -> list[tuple[Codes, Floats | None]]:
        """Return the codes [tokens, kv heads, head_dim] of keys and values at `slots`, and the
        scales of int8.
        """
        size = round_up(self.head_dim, PANEL_COLUMNS)
        keys, key_scales = self._split(self.cache.keys[0], self.head_dim)
        values, value_scales = self._split(self.cache.values[0], size)
        keys = keys.reshape(NUM_BLOCKS, self.num_kv_heads, -1, BLOCK_TOKENS, 2)
        keys = keys.transpose(0, 3, 1, 2, 4).reshape(-1, self.num_kv_heads, self.head_dim)
        panels = values.reshape(NUM_BLOCKS, self.num_kv_heads, -1, BLOCK_TOKENS // 2, 32, 2)
        values = panels.transpose(0, 3, 5, 1, 2, 4).reshape(-1, self.num_kv_heads, size)
        sides = ((keys, key_scales), (values[..., : self.head_dim], value_scales))
        return [
            (codes[slots], None if scales is None else scales[slots]) for codes, scales in sides
        ]

    def _split(self, side: Codes, size: int) -> tuple[Codes, Floats | None]:
        """Separate the codes of a side from the scales [slots, kv heads]."""
        per_head = side.reshape(NUM_BLOCKS, self.num_kv_heads, -1)
        codes = per_head[..., : size * BLOCK_TOKENS]
        if CACHE_FORMATS[self.name].kind != CodeKind.INTEGER:
            return codes, None
        scales = np.ascontiguousarray(per_head[..., size * BLOCK_TOKENS :]).view(np.float32)
        return codes, scales.transpose(0, 2, 1).reshape(-1, self.num_kv_heads)

    def _run(
        self, kind: Kind, source: npt.NDArray[Any], target: npt.NDArray[Any], batch: BatchRecord
    ) -> None:
        op = OpRecord(
            kind=kind,
            source=source.ctypes.data,
            target=target.ctypes.data,
            attention=ctypes.pointer(self.record),
        )
        engine = Engine(self.library, 1, 1, self.library.scratch_floats(self.record))
        try:
            engine.run((OpRecord * 1)(op), batch)
        finally:
            engine.close()
