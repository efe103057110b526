"""AWQ checkpoints (arXiv 2306.00978) in the layout `GEMM` of AutoAWQ.

A weight [outputs, inputs] is stored as:

* `qweight` int32 [inputs, outputs / 8]: nibble `i` of a word, from the lowest bits on, belongs to
  output `_ORDER[i]` of the 8 outputs of the word.
* `qzeros` int32 [groups, outputs / 8]: the zeros in the same order.
* `scales` [groups, outputs]: floating-point scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.parts import (
    SCALE_KINDS,
    check_part,
    float_values,
    groups_text,
    modules_with,
    num_groups,
    parts_of,
    unpack_bits,
    weight_name,
)
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import Array, CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["AwqFormat", "read"]

_BITS = 4
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_PLACES = np.argsort(_ORDER)  # the nibble of each output of a word
_PER_WORD = len(_ORDER)
_INTEGERS = ("I32", "U32")
# The other names are kernels of transformers for the same layout.
_VERSIONS = ("gemm", "exllama", "ipex")


@final
@dataclass(frozen=True)
class AwqFormat:
    """The settings of an AWQ checkpoint."""

    group_size: int | None  # None = all inputs
    exceptions: tuple[str, ...]

    @property
    def name(self) -> str:
        """The value of `--quantize`."""
        return "awq"

    @property
    def description(self) -> str:
        """One line for tables and logs."""
        return f"AWQ, 4 bits, {groups_text(self.group_size)}"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        """Find the quantized weights. See `CheckpointFormat.tensors`."""
        found = (
            self._tensor(stored, module) for module in modules_with(stored, "qweight", "qzeros")
        )
        return {tensor.name: tensor for tensor in found}

    def _tensor(self, stored: Mapping[str, StoredTensor], module: str) -> QuantizedTensor:
        parts = parts_of(stored, module, ("qweight", "qzeros", "scales"), self.exceptions)
        codes = parts["qweight"]
        if len(codes.shape) != 2:
            raise ModelError(
                f"The tensor `{codes.name}` has shape {list(codes.shape)}, which is no matrix.",
                "The checkpoint is damaged.",
            )
        inputs, words = codes.shape
        groups = num_groups(inputs, self.group_size)
        check_part(codes, codes.shape, _INTEGERS)
        check_part(parts["qzeros"], (groups, words), _INTEGERS, codes)
        check_part(parts["scales"], (groups, words * _PER_WORD), ("F16", "BF16", "F32"), codes)
        form = QuantizedFormat(
            CodeKind.INTEGER,
            _BITS,
            self.group_size,
            scale_kind=SCALE_KINDS[parts["scales"].dtype],
            has_zeros=True,
        )
        return QuantizedTensor(
            weight_name(module),
            (words * _PER_WORD, inputs),
            form,
            parts,
            partial(_decode, form, parts),
            row_multiple=_PER_WORD,
        )


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of AWQ. Raises `ModelError`."""
    settings.integer("bits", "w_bit", default=_BITS, allowed=(_BITS,))
    settings.text("version", default="gemm", allowed=_VERSIONS)
    group = settings.integer("group_size", "q_group_size", default=128)
    if group < 1 and group != -1:
        raise settings.error("group_size", group, "positive, or -1 for one group per output")
    return AwqFormat(None if group == -1 else group, settings.texts("modules_to_not_convert"))


def _decode(
    form: QuantizedFormat,
    parts: Mapping[str, StoredTensor],
    read_part: Read,
    expert: int | None,
    rows: slice,
) -> QuantizedMatrix:
    """Decode some outputs. The weights of an expert are separate tensors, so `expert` is None."""
    assert expert is None, "each expert has its own tensors"
    words = slice(rows.start // _PER_WORD, rows.stop // _PER_WORD)
    scales = float_values(read_part("scales")[:, rows], parts["scales"].dtype)
    return QuantizedMatrix(
        form,
        np.ascontiguousarray(_unpack(read_part("qweight")[:, words]).T),
        np.ascontiguousarray(scales.T),
        zeros=np.ascontiguousarray(_unpack(read_part("qzeros")[:, words]).T),
    )


def _unpack(words: Array) -> npt.NDArray[np.uint8]:
    """Unpack [rows, words] to [rows, 8 * words] in the order of the outputs."""
    nibbles = unpack_bits(words, _BITS).reshape(len(words), -1, _PER_WORD)
    return nibbles[..., _PLACES].reshape(len(words), -1)
