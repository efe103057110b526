"""The optional method of a backend that quantizes a checkpoint, and its records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final, runtime_checkable

from tgi.architectures import ModelSpec
from tgi.backend.records import Int32Array

__all__ = ["GptqSettings", "QuantizationJob", "Quantizer"]


@final
@dataclass(frozen=True)
class GptqSettings:
    """The settings of GPTQ (arXiv 2210.17323)."""

    bits: int = 4  # 2, 3, 4 or 8
    group_size: int | None = 128  # inputs that share a scale; None = all inputs
    is_symmetric: bool = True  # whether the same code represents 0 in all groups
    has_order: bool = False  # whether inputs are grouped by the size of their activations
    damping: float = 0.01  # added to the diagonal of the Hessian, relative to its mean


@final
@dataclass(frozen=True)
class QuantizationJob:
    """A checkpoint in the folder `model_path`, and the folder that the backend must fill. The
    sequences are the token ids of the calibration text.
    """

    spec: ModelSpec
    model_path: Path
    output: Path
    sequences: tuple[Int32Array, ...]
    settings: GptqSettings


@runtime_checkable
class Quantizer(Protocol):
    """An optional method of a backend: it quantizes the weights of a model for `tgi quantize`."""

    def quantize(self, job: QuantizationJob, report: Callable[[str], None]) -> None:
        """Write the quantized weights and config.json to the existing folder `job.output`.
        `report` gets a line for each layer. May import the framework.

        Raises `ModelError` if the model cannot be quantized, and `BackendError` if the memory or
        the disk space is not sufficient.
        """
