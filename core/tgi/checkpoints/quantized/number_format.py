"""Describes quantized weights without their data: the numbers of the codes and the groups that
share a scale.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import final

__all__ = ["Activation", "CodeKind", "QuantizedFormat", "ScaleKind"]


class CodeKind(enum.StrEnum):
    """The numbers that the codes of a matrix represent."""

    INTEGER = "int"  # the number is code - zero
    NF4 = "nf4"  # 16 quantiles of a normal distribution (QLoRA, arXiv:2305.14314)
    FP4 = "fp4"  # the 16 numbers of bitsandbytes' fp4
    E2M1 = "e2m1"  # 4-bit floating-point numbers of the OCP MX specification
    E4M3 = "e4m3"  # 8-bit floating-point numbers without infinities (arXiv:2209.05433)
    E5M2 = "e5m2"  # 8-bit floating-point numbers with infinities


class ScaleKind(enum.StrEnum):
    """The smallest dtype that represents every scale of a matrix exactly. There is one exception: a
    product of two stored scales may be rounded to `F16`. The error is at most 2^-12 of the scale.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    E8M0 = "e8m0"  # a power of two


class Activation(enum.StrEnum):
    """The way in which the authors of the checkpoint quantize the inputs of the matrix product. A
    backend may ignore it, because inputs of full precision give a more accurate product.
    """

    NONE = "none"
    INT8_DYNAMIC = "int8 per token"
    INT8_STATIC = "int8"
    FP8_DYNAMIC = "fp8 per token"
    FP8_STATIC = "fp8"


@final
@dataclass(frozen=True)
class QuantizedFormat:
    """The format of one quantized matrix [..., outputs, inputs].

    A weight is `scale * (number(code) - zero)` or `scale * number(code) + offset`. Each block of
    `group_outputs` x `group_inputs` weights shares one scale, and one zero or offset. Two
    matrices have equal formats if one call of a kernel can multiply by both.
    """

    kind: CodeKind
    bits: int  # 2 to 8: size of a code
    group_inputs: int | None  # None = all inputs of an output
    group_outputs: int = 1  # 128 for blocks of 128 x 128; 0 = one scale for the whole matrix
    scale_kind: ScaleKind = ScaleKind.F32
    zero: int = 0  # the code of the number 0 for integers, if each group has the same zero
    has_zeros: bool = False  # whether each group has its own integer zero
    has_offsets: bool = False  # whether each group has a real offset
    has_input_order: bool = False  # whether the groups contain inputs that are not adjacent
    activation: Activation = Activation.NONE

    def num_groups(self, num_inputs: int) -> int:
        """Number of groups along the inputs. The last group may be incomplete."""
        size = self.group_inputs or num_inputs
        return -(-num_inputs // size)

    @property
    def name(self) -> str:
        """A short description for tables and logs, for example `int4 in groups of 128`."""
        kind = f"int{self.bits}" if self.kind is CodeKind.INTEGER else self.kind.value
        if self.group_outputs > 1:
            return f"{kind} in blocks of {self.group_outputs} x {self.group_inputs}"
        if self.group_inputs is not None:
            return f"{kind} in groups of {self.group_inputs}"
        return f"{kind} per tensor" if self.group_outputs == 0 else f"{kind} per output"
