"""A model's weights in the native layouts.

Matrices are packed or quantized, and all other weights are float32. All memory is assigned before
loading begins, so that each piece of the checkpoint is written directly to its final address.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tgi.architectures import MLP, Attention, ModelSpec
from tgi.architectures.parameter_names import mixer_tag
from tgi.architectures.weight_map import tensor_shapes
from tgi.checkpoints.quantized import QuantizedMatrix as CanonicalMatrix
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_matrices import Matrix, MatrixPlan, PackedMatrix
from tgi_cpu.native_quantized import QuantizedMatrix, quantized_bytes
from tgi_cpu.native_records import round_up
from tgi_torch.weights.weight_formats import CheckpointFormats, MatrixFormats, WeightFormat

__all__ = ["Float32Array", "NativeWeights", "plan_matrices"]

_ALIGNMENT = 64  # bytes, the size of a vector register

Float32Array = npt.NDArray[np.float32]


def plan_matrices(spec: ModelSpec) -> dict[str, MatrixPlan]:
    """Return the matrices of a decoder that consists of attention and MLP mixers.

    The result maps the name of each matrix to its plan. A name consists of the prefix of the
    mixer's parameter names and the name within the mixer, for example
    `decoder.layers.0.attention.qkv`.
    """
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
                plans[f"{prefix}.qkv"] = MatrixPlan(
                    rows | {f"{prefix}.{name}.weight": kv_rows for name in "kv"}, hidden
                )
                plans[f"{prefix}.o"] = MatrixPlan(
                    {f"{prefix}.o.weight": hidden}, mixer.num_heads * mixer.head_dim
                )
            elif isinstance(mixer, MLP):
                size = mixer.intermediate_size
                names = ("gate", "up") if mixer.gated else ("up",)
                rows = {f"{prefix}.{name}.weight": size for name in names}
                plans[f"{prefix}.up"] = MatrixPlan(rows, hidden, gated=mixer.gated)
                plans[f"{prefix}.down"] = MatrixPlan({f"{prefix}.down.weight": hidden}, size)
    return plans


def _matrix_bytes(plan: MatrixPlan, weight_format: WeightFormat | None) -> int:
    return plan.num_bytes if weight_format is None else quantized_bytes(plan, weight_format)


@final
class NativeWeights:
    """All parameters of a model, filled piece by piece.

    Matrices are stored in bfloat16 or in the formats of `quantization`.
    """

    def __init__(
        self, spec: ModelSpec, library: NativeLibrary, quantization: MatrixFormats | None = None
    ) -> None:
        plans = plan_matrices(spec)
        formats = {
            name: None
            if quantization is None
            else quantization.matrix_format(plan.parameter_rows, plan.num_inputs)
            for name, plan in plans.items()
        }
        sizes = [
            round_up(_matrix_bytes(plan, formats[name]), _ALIGNMENT) for name, plan in plans.items()
        ]
        self._library = library
        self._memory = library.allocate(sum(sizes))
        parts = zip(plans.items(), np.split(self._memory, np.cumsum(sizes)[:-1]), strict=True)
        self._packed: dict[str, PackedMatrix] = {}
        self._quantized: dict[str, QuantizedMatrix] = {}
        for (name, plan), part in parts:
            weight_format = formats[name]
            memory = part[: _matrix_bytes(plan, weight_format)]
            if weight_format is None:
                self._packed[name] = PackedMatrix(plan, library, memory.view(np.uint16))
            else:
                self._quantized[name] = QuantizedMatrix(plan, library, weight_format, memory)
        self.matrices: Mapping[str, Matrix] = {**self._packed, **self._quantized}
        all_matrices: list[PackedMatrix | QuantizedMatrix] = [
            *self._packed.values(),
            *self._quantized.values(),
        ]
        self._matrix_of = {
            parameter: matrix for matrix in all_matrices for parameter in matrix.plan.parameter_rows
        }
        self._takes_codes = isinstance(quantization, CheckpointFormats)
        self.vectors: dict[str, Float32Array] = {
            parameter: np.zeros(shape, np.float32)
            for parameter, shape in tensor_shapes(spec).items()
            if parameter not in self._matrix_of
        }

    def write(self, parameter: str, axis: int, start: int, piece: Tensor) -> None:
        """Store `piece`, the part of `parameter` that begins at index `start` of `axis`.

        `piece` may have any floating-point dtype.
        """
        if parameter in self._matrix_of:
            self._matrix_of[parameter].write(parameter, axis, start, piece)
            return
        part = (
            self.vectors[parameter]
            .swapaxes(0, axis)[start : start + piece.shape[axis]]
            .swapaxes(0, axis)
        )
        part[...] = piece.float().numpy()

    def takes(self, parameter: str) -> bool:
        """Whether the parameter is stored in the quantized form that the checkpoint contains."""
        return self._takes_codes and isinstance(self._matrix_of.get(parameter), QuantizedMatrix)

    def write_quantized(self, parameter: str, first_row: int, piece: CanonicalMatrix) -> None:
        """Store rows of a parameter that are already quantized."""
        matrix = self._matrix_of[parameter]
        assert isinstance(matrix, QuantizedMatrix), f"{parameter} is not quantized"
        matrix.write_quantized(parameter, first_row, piece)

    def compress(self) -> None:
        """Compress bfloat16 matrices to 12 bits per weight in place and release the freed memory.

        Call this once, after the last `write`. The compression is lossless. Quantized matrices are
        not changed.
        """
        if not self._packed:
            return
        with ThreadPoolExecutor(self._library.num_threads) as pool:
            compressed = dict(
                zip(
                    self._packed,
                    pool.map(PackedMatrix.compressed, self._packed.values()),
                    strict=True,
                )
            )
        if self._quantized:  # they are stored between the other matrices and are not moved
            for name, matrix in compressed.items():
                panels = self._packed[name].panels.view(np.uint8)
                self._library.release(panels[matrix.num_bytes :])
            self.matrices = {**compressed, **self._quantized}
            return
        end = 0
        for name, matrix in compressed.items():
            compressed[name] = matrix.moved(self._memory[end:])
            end += round_up(matrix.num_bytes, _ALIGNMENT)
        self._library.release(self._memory[end:])
        self.matrices = compressed

    def bias(self, matrix: Matrix) -> Float32Array | None:
        """Return the bias in the order of the matrix's columns, float32, padded to whole panels.

        Returns None if none of the matrix's parameters has a bias.
        """
        plan = matrix.plan
        # The embedding is the weight of a tied head, whose bias is `head.bias`.
        values = {
            parameter: self.vectors.get(
                "head.bias"
                if parameter == "embedding.weight"
                else parameter.removesuffix("weight") + "bias"
            )
            for parameter in plan.parameter_rows
        }
        if all(bias is None for bias in values.values()):
            return None
        merged = np.zeros(plan.padded_columns, np.float32)
        for parameter, bias in values.items():
            if bias is not None:
                merged[plan.columns(parameter)] = bias
        return merged
