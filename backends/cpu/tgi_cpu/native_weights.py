"""A model's weights as the native kernels read them: matrices packed in panels, everything else in float32.

Every role has its place before a byte is read, so that a checkpoint streams straight into it.
"""

from __future__ import annotations

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
from tgi_cpu.native import PANEL_COLUMNS, NativeLibrary, round_up

__all__ = ["Float32Array", "MatrixPlan", "NativeWeights", "PackedMatrix", "plan_matrices"]

_HALF_PANEL = PANEL_COLUMNS // 2

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
    def num_values(self) -> int:
        """bf16 values of the packed panels."""
        return round_up(self.num_columns, PANEL_COLUMNS) * round_up(self.num_inputs, 2)

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
    """A plan and its panels."""

    plan: MatrixPlan
    panels: npt.NDArray[np.uint16]


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
    """All parameters of a model, filled piece by piece by role."""

    def __init__(self, spec: ModelSpec, library: NativeLibrary) -> None:
        self._library = library
        plans = plan_matrices(spec)
        memory = library.allocate(2 * sum(plan.num_values for plan in plans.values())).view(np.uint16)
        parts = np.split(memory, np.cumsum([plan.num_values for plan in plans.values()])[:-1])
        self.matrices = {name: PackedMatrix(plan, part) for (name, plan), part in zip(plans.items(), parts, strict=True)}
        self._matrix_of = {role: matrix for matrix in self.matrices.values() for role in matrix.plan.role_rows}
        self.vectors: dict[str, Float32Array] = {
            role: np.zeros(shape, np.float32) for role, shape in tensor_shapes(spec).items() if role not in self._matrix_of
        }

    def write(self, role: str, axis: int, start: int, piece: Tensor) -> None:
        """Take `piece`, the part of `role` from index `start` of `axis` on, in any floating dtype."""
        if role not in self._matrix_of:
            part = self.vectors[role].swapaxes(0, axis)[start : start + piece.shape[axis]].swapaxes(0, axis)
            part[...] = piece.float().numpy()
            return
        matrix = self._matrix_of[role]
        plan = matrix.plan
        self._library.pack(
            piece.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16),
            matrix.panels,
            plan.num_inputs,
            first_column=(start if axis == 0 else 0) + (0 if plan.gated else int(plan.columns(role)[0])),
            first_input=start if axis == 1 else 0,
            gate_half=list(plan.role_rows).index(role) if plan.gated else -1,
        )

    def bias(self, matrix: PackedMatrix) -> Float32Array | None:
        """The matrix's bias in the order of its columns, padded to whole panels; None if its roles have none."""
        plan = matrix.plan
        values = {role: self.vectors.get(role.removesuffix("weight") + "bias") for role in plan.role_rows}
        if all(bias is None for bias in values.values()):
            return None
        merged = np.zeros(round_up(plan.num_columns, PANEL_COLUMNS), np.float32)
        for role, bias in values.items():
            if bias is not None:
                merged[plan.columns(role)] = bias
        return merged
