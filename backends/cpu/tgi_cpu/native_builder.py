"""Allocates the buffers and builds the operations of a native program."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tgi.architectures import Attention, ModelSpec, Norm, Rope
from tgi.architectures.rope import inverse_frequencies
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_cache import NativeCache
from tgi_cpu.native_records import PANEL_COLUMNS, AttentionRecord, OpRecord, round_up
from tgi_cpu.native_support import ACTIVATIONS
from tgi_cpu.native_weights import Float32Array, NativeWeights
from tgi_torch.attention.alibi import alibi_slopes

__all__ = ["Array", "Kind", "ProgramBuilder", "Store"]

Array = npt.NDArray[Any]


class Kind(IntEnum):
    """The kind of an operation. The values are those of `tgi::Kind`."""

    EMBED = 0
    NORM = 1
    LINEAR = 2
    QKV = 3
    ATTENTION = 4
    ADD = 5


class Store(IntEnum):
    """The way in which an operation stores its result. The values are those of `tgi::Store`."""

    FLOAT = 0
    ACCUMULATE = 1
    ACTIVATE = 2
    GATE = 3


_NORM_KINDS = {"rms": 1, "layer": 2}


@final
@dataclass
class ProgramBuilder:
    """Builds the operations of a program in order, and allocates the buffers that they use."""

    spec: ModelSpec
    weights: NativeWeights
    native: NativeLibrary
    cache: NativeCache
    max_tokens: int
    max_positions: int
    ops: list[OpRecord] = field(default_factory=list)
    keep_alive: list[object] = field(default_factory=list)
    scratch_floats: int = 16
    buffers: dict[str, Array] = field(default_factory=dict)
    _rotations: dict[Rope, tuple[Float32Array, Float32Array]] = field(default_factory=dict)
    _num_attentions: int = 0

    def buffer(
        self, name: str, columns: int, *, floats: bool = False, rows: int | None = None
    ) -> Array:
        """Return the activations [tokens, padded columns] with this name and width.

        Two calls with the same name and width return the same memory.
        """
        width = round_up(columns, PANEL_COLUMNS)
        key = f"{name} {width}"
        if key not in self.buffers:
            count = (self.max_tokens if rows is None else rows) * width
            memory = self.native.allocate(count * (4 if floats else 2)).view(
                np.float32 if floats else np.uint16
            )
            self.buffers[key] = memory.reshape(-1, width)
        return self.buffers[key]

    def used_by(self, *parts: list[OpRecord]) -> list[Array]:
        """Return the buffers that the operations of each part read or write."""
        used = [{address for op in part for address in (op.source, op.target)} for part in parts]
        return [
            buffer
            for buffer in self.buffers.values()
            if all(buffer.ctypes.data in addresses for addresses in used)
        ]

    def pointer(self, array: Array | None) -> int | None:
        """Return the address of `array`. The program keeps a reference to the array."""
        if array is None:
            return None
        self.keep_alive.append(array)
        return int(array.ctypes.data)

    def add(self, kind: Kind, **fields: object) -> None:
        """Append an operation."""
        fields.setdefault("scale", 1.0)
        self.ops.append(OpRecord(kind=kind, **fields))

    def linear(
        self,
        name: str,
        source: Array,
        target: Array,
        store: Store,
        *,
        scale: float = 1.0,
        activation: str | None = None,
    ) -> None:
        """Append a product. The value scale * (source x weight + bias) is stored in `target` in the
        way that `store` selects.
        """
        matrix = self.weights.matrices[name]
        self.scratch_floats = max(self.scratch_floats, matrix.scratch_floats)
        self.add(
            Kind.LINEAR,
            store=store,
            activation=0 if activation is None else ACTIVATIONS[activation],
            num_columns=matrix.plan.num_columns,
            num_inputs=matrix.plan.num_inputs,
            bias=self.pointer(self.weights.bias(matrix)),
            source=self.pointer(source),
            target=self.pointer(target),
            scale=scale,
            **matrix.operand,
        )

    def norm(self, parameter: str, norm: Norm | None, source: Array, target: Array) -> None:
        """Append a norm over the hidden size."""
        assert norm is not None, "a branch must have a norm before it"
        self.add(
            Kind.NORM,
            norm_kind=_NORM_KINDS[norm.kind],
            num_columns=self.spec.hidden_size,
            weight=self.pointer(self.norm_weight(parameter, norm)),
            bias=self.pointer(self.weights.vectors.get(f"{parameter}.bias")),
            source=self.pointer(source),
            target=self.pointer(target),
            epsilon=norm.eps,
            target_is_float=target.dtype == np.float32,
        )

    def norm_weight(self, parameter: str, norm: Norm) -> Float32Array | None:
        """Return the weight of a norm, including the unit offset if the norm has one."""
        weight = self.weights.vectors.get(f"{parameter}.weight")
        return weight + np.float32(1) if weight is not None and norm.unit_offset else weight

    def rotation(self, rope: Rope) -> tuple[Float32Array, Float32Array]:
        """Return the cosines and sines of a rope, float32 [positions, rotary_dim / 2]."""
        if rope not in self._rotations:
            frequencies, factor = inverse_frequencies(rope, self.max_positions)
            angles = np.outer(
                np.arange(self.max_positions), np.asarray(frequencies, np.float32)
            ).astype(np.float32)
            self._rotations[rope] = (
                np.ascontiguousarray(np.cos(angles) * factor, np.float32),
                np.ascontiguousarray(np.sin(angles) * factor, np.float32),
            )
        return self._rotations[rope]

    def attention(self, mixer: Attention, prefix: str) -> AttentionRecord:
        """Build the record of the next attention layer."""
        layer, self._num_attentions = self._num_attentions, self._num_attentions + 1
        cosines, sines = (None, None) if mixer.rope is None else self.rotation(mixer.rope)
        q_norm, k_norm = mixer.q_norm, mixer.k_norm
        slopes = None
        if mixer.alibi:
            slopes = (
                alibi_slopes(mixer.num_heads, mixer.alibi_bias_max) * mixer.alibi_scale
            ).numpy()
        record = AttentionRecord(
            num_heads=mixer.num_heads,
            num_kv_heads=mixer.num_kv_heads,
            head_dim=mixer.head_dim,
            rotary_dim=0 if mixer.rope is None else mixer.rope.rotary_dim,
            interleaved=mixer.rope is not None and mixer.rope.interleaved,
            window=mixer.window or 0,
            qk_norm_kind=0 if q_norm is None else _NORM_KINDS[q_norm.kind],
            scale=mixer.scale,
            softcap=mixer.softcap or 0.0,
            qk_norm_epsilon=0.0 if q_norm is None else q_norm.eps,
            q_norm=(
                None
                if q_norm is None
                else self.pointer(self.norm_weight(f"{prefix}.q_norm", q_norm))
            ),
            k_norm=(
                None
                if k_norm is None
                else self.pointer(self.norm_weight(f"{prefix}.k_norm", k_norm))
            ),
            slopes=self.pointer(slopes),
            sinks=self.pointer(self.weights.vectors.get(f"{prefix}.sinks")),
            cosines=self.pointer(cosines),
            sines=self.pointer(sines),
            **self.cache.fields[layer],
        )
        self.scratch_floats = max(self.scratch_floats, self.native.scratch_floats(record))
        self.keep_alive.append(record)
        return record
