"""The format `mxfp4` of gpt_oss: experts in 4-bit floating-point numbers, with one power of two per
32 inputs. Source: transformers, `integrations/mxfp4.py`, and the model card of openai/gpt-oss-20b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.stored_parts import (
    check_not_excluded,
    checked_part,
    nibbles,
    one_expert,
    powers_of_two,
)
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix, ScaleKind
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["read"]

_GROUP = 32
_BLOCKS = "_blocks"
_NUM_DIMENSIONS = 4
_FORMAT = QuantizedFormat(CodeKind.E2M1, 4, _GROUP, scale_kind=ScaleKind.E8M0)


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of `quant_method` `mxfp4`. Raises `ModelError`."""
    return _Mxfp4(settings.texts("modules_to_not_convert"), settings.place)


@final
@dataclass(frozen=True)
class _Mxfp4:
    excluded: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return "mxfp4"

    @property
    def description(self) -> str:
        return f"MXFP4 experts, 4-bit floats in groups of {_GROUP}"

    def tensors(
        self,
        stored: Mapping[str, StoredTensor],
        read: Read,
    ) -> Mapping[str, QuantizedTensor]:
        names = [name.removesuffix(_BLOCKS) for name in stored if name.endswith(_BLOCKS)]
        return {name: self._tensor(stored, name) for name in names}

    def _tensor(self, stored: Mapping[str, StoredTensor], name: str) -> QuantizedTensor:
        """Build the experts `name` from blocks [experts, outputs, groups, 16] of two codes per byte
        and scales [experts, outputs, groups].
        """
        check_not_excluded(name, self.excluded, self.place)
        blocks = checked_part(stored, f"{name}{_BLOCKS}", ("U8",))
        if len(blocks.shape) != _NUM_DIMENSIONS or blocks.shape[-1] != _GROUP // 2:
            raise ModelError(
                f"The tensor `{blocks.name}` has shape {list(blocks.shape)}, but mxfp4 requires"
                f" [experts, outputs, groups, {_GROUP // 2}].",
                "Download the checkpoint again.",
            )
        experts, outputs, groups = blocks.shape[:-1]
        scales = checked_part(
            stored, f"{name}_scales", ("U8", "F8_E8M0"), (experts, outputs, groups)
        )
        parts = {"blocks": blocks, "scales": scales}
        return QuantizedTensor(name, (experts, outputs, groups * _GROUP), _FORMAT, parts, _decode)


def _decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
    blocks = one_expert(read("blocks"), expert)[rows]
    scales = one_expert(read("scales"), expert)[rows]
    codes = nibbles(np.ascontiguousarray(blocks)).reshape(len(blocks), scales.shape[-1] * _GROUP)
    return QuantizedMatrix(_FORMAT, codes, powers_of_two(scales))
