"""A model's weights as the native kernels read them: matrices packed in panels or quantized, everything else in float32.

Every role has its place before a byte is read, so that a checkpoint streams straight into it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.architectures import MLP, Attention, ModelSpec
from tgi.architectures.roles import mixer_tag
from tgi.architectures.weight_map import tensor_shapes
from tgi_cpu.native import PANEL_COLUMNS, NativeLibrary, QuantizedRecord, round_up
from tgi_torch.weight_formats import Quantization, WeightFormat

__all__ = ["Float32Array", "MatrixPlan", "NativeWeights", "PackedMatrix", "QuantizedMatrix", "plan_matrices"]

_HALF_PANEL = PANEL_COLUMNS // 2
_ALIGNMENT = 64  # bytes of a vector

Float32Array = npt.NDArray[np.float32]


@final
@dataclass(frozen=True)
class MatrixPlan:
    """A weight made of the rows of one or more roles. `gated`: gate and up take turns, half a panel each."""

    role_rows: Mapping[str, int]
    num_inputs: int
    gated: bool = False

    @property
    def num_columns(self) -> int:
        """Columns, those that pad a gate included."""
        if self.gated:
            return 2 * round_up(max(self.role_rows.values()), _HALF_PANEL)
        return sum(self.role_rows.values())

    @property
    def padded_columns(self) -> int:
        """Columns of whole panels."""
        return round_up(self.num_columns, PANEL_COLUMNS)

    def num_bytes(self, weight_format: WeightFormat | None) -> int:
        """Memory of the panels, in bfloat16 or in `weight_format`."""
        if weight_format is None:
            return 2 * self.padded_columns * round_up(self.num_inputs, 2)
        return weight_format.num_bytes(self.padded_columns, self.num_inputs)

    def first_column(self, role: str) -> int:
        """The packed column of the first row of `role`; where it is gated, counted in its own half panels."""
        return 0 if self.gated else int(self.columns(role)[0])

    def gate_half(self, role: str) -> int:
        """Which half of a panel `role` fills; -1 where panels are not shared."""
        return list(self.role_rows).index(role) if self.gated else -1

    def columns(self, role: str) -> npt.NDArray[np.int64]:
        """The packed column of each row of `role`."""
        rows = np.arange(self.role_rows[role])
        names = list(self.role_rows)
        if self.gated:
            return rows // _HALF_PANEL * PANEL_COLUMNS + names.index(role) * _HALF_PANEL + rows % _HALF_PANEL
        return rows + sum(self.role_rows[name] for name in names[: names.index(role)])


@final
@dataclass(frozen=True)
class PackedMatrix:
    """A plan and its bfloat16 panels."""

    plan: MatrixPlan
    library: NativeLibrary
    panels: npt.NDArray[np.uint16]

    @property
    def record(self) -> None:
        """Not quantized."""

    @property
    def record_pointer(self) -> None:
        """Not quantized."""

    def write(self, role: str, axis: int, start: int, piece: Tensor) -> None:
        """Take the part of `role` from index `start` of `axis` on."""
        self.library.pack(
            piece.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16),
            self.panels,
            self.plan.num_inputs,
            first_column=self.plan.first_column(role) + (start if axis == 0 else 0),
            first_input=start if axis == 1 else 0,
            gate_half=self.plan.gate_half(role),
        )


@final
class QuantizedMatrix:
    """A plan with codes and scales: they are made piece by piece, so the matrix never stands in memory in another dtype."""

    def __init__(
        self, plan: MatrixPlan, library: NativeLibrary, weight_format: WeightFormat, memory: npt.NDArray[np.uint8]
    ) -> None:
        self.plan = plan
        self.panels: None = None
        num_codes = plan.padded_columns * weight_format.code_bytes(plan.num_inputs)
        self.codes, self.scales = memory[:num_codes], memory[num_codes:]
        self._library = library
        self._format = weight_format
        self.record = QuantizedRecord(
            codes=self.codes.ctypes.data,
            scales=self.scales.ctypes.data,
            bits=weight_format.bits,
            group_size=weight_format.group_size,
        )

    @property
    def record_pointer(self) -> ctypes._Pointer[QuantizedRecord]:
        """For an operation; valid as long as the matrix lives."""
        return ctypes.pointer(self.record)

    def write(self, role: str, axis: int, start: int, piece: Tensor) -> None:
        """Quantize the part of `role` from index `start` of `axis` on. Along the inputs, parts begin with a group."""
        first_input = start if axis == 1 else 0
        assert first_input % self._format.group_size == 0, f"{role}: a part begins inside a group, at input {first_input}"
        self._library.quantize(
            piece.float().contiguous().numpy(),
            self.record,
            self.plan.num_inputs,
            self._format.anchors,
            first_column=self.plan.first_column(role) + (start if axis == 0 else 0),
            first_input=first_input,
            gate_half=self.plan.gate_half(role),
        )


def plan_matrices(spec: ModelSpec) -> dict[str, MatrixPlan]:
    """The matrices of a decoder of attention and MLP mixers, by the prefix of their roles and what they do."""
    hidden = spec.hidden_size
    plans = {"embedding": MatrixPlan({"embedding.weight": spec.vocab_size}, hidden)}
    if not spec.head.tied:
        plans["head"] = MatrixPlan({"head.weight": spec.vocab_size}, hidden)
    for number, layer in enumerate(spec.decoder.layers):
        for mixer in (branch.mixer for block in layer.blocks for branch in block.branches):
            prefix = f"{spec.decoder.kind}.layers.{number}.{mixer_tag(mixer)}"
            if isinstance(mixer, Attention):
                kv_rows = mixer.num_kv_heads * mixer.head_dim
                rows = {f"{prefix}.q.weight": mixer.num_heads * mixer.head_dim}
                plans[f"{prefix}.qkv"] = MatrixPlan(rows | {f"{prefix}.{name}.weight": kv_rows for name in "kv"}, hidden)
                plans[f"{prefix}.o"] = MatrixPlan({f"{prefix}.o.weight": hidden}, mixer.num_heads * mixer.head_dim)
            elif isinstance(mixer, MLP):
                size = mixer.intermediate_size
                names = ("gate", "up") if mixer.gated else ("up",)
                rows = {f"{prefix}.{name}.weight": size for name in names}
                plans[f"{prefix}.up"] = MatrixPlan(rows, hidden, gated=mixer.gated)
                plans[f"{prefix}.down"] = MatrixPlan({f"{prefix}.down.weight": hidden}, size)
    return plans


@final
class NativeWeights:
    """All parameters of a model, filled piece by piece by role; matrices in bfloat16, or as `quantization` says."""

    def __init__(self, spec: ModelSpec, library: NativeLibrary, quantization: Quantization | None = None) -> None:
        plans = plan_matrices(spec)
        formats = {name: None if quantization is None else quantization.format_of(name) for name in plans}
        sizes = [round_up(plan.num_bytes(formats[name]), _ALIGNMENT) for name, plan in plans.items()]
        memory = np.split(library.allocate(sum(sizes)), np.cumsum(sizes)[:-1])
        self.matrices = {
            name: _matrix(plan, library, formats[name], part) for (name, plan), part in zip(plans.items(), memory, strict=True)
        }
        self._matrix_of = {role: matrix for matrix in self.matrices.values() for role in matrix.plan.role_rows}
        self.vectors: dict[str, Float32Array] = {
            role: np.zeros(shape, np.float32) for role, shape in tensor_shapes(spec).items() if role not in self._matrix_of
        }

    def write(self, role: str, axis: int, start: int, piece: Tensor) -> None:
        """Take `piece`, the part of `role` from index `start` of `axis` on, in any floating dtype."""
        if role in self._matrix_of:
            self._matrix_of[role].write(role, axis, start, piece)
            return
        part = self.vectors[role].swapaxes(0, axis)[start : start + piece.shape[axis]].swapaxes(0, axis)
        part[...] = piece.float().numpy()

    def bias(self, matrix: PackedMatrix | QuantizedMatrix) -> Float32Array | None:
        """The matrix's bias in the order of its columns, padded to whole panels; None if its roles have none."""
        plan = matrix.plan
        values = {role: self.vectors.get(role.removesuffix("weight") + "bias") for role in plan.role_rows}
        if all(bias is None for bias in values.values()):
            return None
        merged = np.zeros(plan.padded_columns, np.float32)
        for role, bias in values.items():
            if bias is not None:
                merged[plan.columns(role)] = bias
        return merged


def _matrix(
    plan: MatrixPlan, library: NativeLibrary, weight_format: WeightFormat | None, memory: npt.NDArray[np.uint8]
) -> PackedMatrix | QuantizedMatrix:
    size = plan.num_bytes(weight_format)
    if weight_format is None:
        return PackedMatrix(plan, library, memory[:size].view(np.uint16))
    return QuantizedMatrix(plan, library, weight_format, memory[:size])
