"""The formats in which a quantized checkpoint is computed on a CPU. This module imports no
framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tgi.architectures import GenericSpec, ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi.checkpoints.detection import find_format
from tgi.worker.checkpoint import quantized_parameters
from tgi_torch.weights.weight_formats import CheckpointFormats

__all__ = ["checkpoint_formats", "dequantized_parameters", "formats_line"]

_FUSED = ({"q", "k", "v"}, {"gate", "up"})  # parameters that are rows of one matrix
_SHOWN = 3  # names in a log line


def checkpoint_formats(spec: ModelSpec | GenericSpec, model_path: Path) -> CheckpointFormats | None:
    """Return the formats of the quantized parameters of a checkpoint, or None if no parameter is
    quantized. Raises `ModelError` as the loader does.
    """
    form = find_format(model_path)
    if form is None or not isinstance(spec, ModelSpec):
        return None
    parameters = quantized_parameters(spec, model_path)
    return CheckpointFormats(form.description, parameters) if parameters else None


def dequantized_parameters(formats: CheckpointFormats, spec: ModelSpec) -> list[str]:
    """The quantized parameters that are dequantized while they are loaded: experts, and matrices
    whose parameters have no common format.
    """
    shapes = tensor_shapes(spec)
    return [
        parameter
        for parameter in formats.parameters
        if len(shapes[parameter]) != 2
        or formats.matrix_format(_matrix_rows(parameter, shapes), shapes[parameter][1]) is None
    ]


def _matrix_rows(parameter: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The parameters of the matrix that contains `parameter`, with their number of rows."""
    prefix, name, kind = parameter.rsplit(".", 2) if parameter.count(".") > 1 else ("", "", "")
    parts: set[str] = next((parts for parts in _FUSED if name in parts), set())
    names = [f"{prefix}.{part}.{kind}" for part in sorted(parts)]
    return {n: shapes[n][0] for n in names if n in shapes} or {parameter: shapes[parameter][0]}


def formats_line(formats: CheckpointFormats, spec: ModelSpec, dtype: str) -> str:
    """One log line about the weights of a quantized checkpoint."""
    names = dequantized_parameters(formats, spec)
    line = f"the quantized weights keep the format of the checkpoint ({formats.name})"
    if not names:
        return line
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return (
        f"{line}, except {len(names)} of {len(formats.parameters)} parameters, which are"
        f" dequantized to {dtype} because no kernel computes their matrix: {shown}"
    )
