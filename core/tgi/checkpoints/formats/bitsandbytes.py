"""The format `bitsandbytes`: int8 with one scale per output, and nf4 or fp4 in blocks of the
flattened matrix. Sources: bitsandbytes, `functional.py` (QuantState, int8_vectorwise_dequant), and
transformers, `integrations/bitsandbytes.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.blocks_of_bytes import BlockState, FourBitWeight
from tgi.checkpoints.formats.stored_parts import (
    SIGN_BIT,
    check_not_excluded,
    checked_part,
    numbers,
    optional_parts,
)
from tgi.checkpoints.parts import modules_with
from tgi.checkpoints.quantized import (
    Activation,
    CodeKind,
    QuantizedFormat,
    QuantizedMatrix,
)
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["read"]

_SKIPPED = "llm_int8_skip_modules"
_ROW_LAYOUT = 0  # the layout of int8 weights that is not specific to a device
_INT8 = QuantizedFormat(
    CodeKind.INTEGER, 8, None, zero=SIGN_BIT, activation=Activation.INT8_DYNAMIC
)
_ONE_OF_127 = np.float32(1 / 127)


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of `quant_method` `bitsandbytes`. Raises `ModelError`."""
    is_four_bit = settings.flag("load_in_4bit", "_load_in_4bit", default=False)
    kind = (
        settings.text("bnb_4bit_quant_type", default="fp4", allowed=("nf4", "fp4"))
        if is_four_bit
        else "int8"
    )
    return _BitsAndBytes(kind, settings.texts(_SKIPPED), settings.place)


@final
@dataclass(frozen=True)
class _BitsAndBytes:
    kind: str
    excluded: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return "bitsandbytes" if self.kind == "int8" else f"bitsandbytes-{self.kind}"

    @property
    def description(self) -> str:
        return f"bitsandbytes, {self.kind}"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        four_bit = [_four_bit(stored, name, read) for name in modules_with(stored, "absmax")]
        int8 = [_int8(stored, module, read) for module in modules_with(stored, "SCB")]
        for tensor in (*four_bit, *int8):
            check_not_excluded(tensor.name, self.excluded, self.place)
        return {tensor.name: tensor for tensor in (*four_bit, *int8)}


def _int8(stored: Mapping[str, StoredTensor], module: str, read: Read) -> QuantizedTensor:
    """Build a weight from signed bytes and the largest magnitude of each output, `SCB`."""
    weight = checked_part(stored, f"{module}.weight", ("I8",))
    if len(weight.shape) != 2:
        raise ModelError(
            f"The tensor `{weight.name}` has shape {list(weight.shape)}, but bitsandbytes requires"
            " [outputs, inputs]."
        )
    scale = checked_part(stored, f"{module}.SCB", ("F32",), (weight.shape[0],))
    others = optional_parts(stored, module, ("weight_format",))
    if "weight_format" in others:
        layout = int(np.asarray(read(others["weight_format"].name)).reshape(-1)[0])
        if layout != _ROW_LAYOUT:
            raise ModelError(
                f"The tensor `{weight.name}` has the bitsandbytes layout {layout}, but only layout"
                f" {_ROW_LAYOUT} (row) is supported.",
                "Save the model again with a current version of bitsandbytes.",
            )

    def decode(read: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
        codes = read("weight")[rows].view(np.uint8) ^ np.uint8(SIGN_BIT)
        factors = numbers(read("SCB")[rows, None], "F32") * _ONE_OF_127
        return QuantizedMatrix(_INT8, codes, factors)

    parts = {"weight": weight, "SCB": scale, **others}
    return QuantizedTensor(weight.name, weight.shape, _INT8, parts, decode)


def _four_bit(stored: Mapping[str, StoredTensor], name: str, read: Read) -> QuantizedTensor:
    """Build a weight from packed codes, the scales of blocks, and the state as JSON. With double
    quantization, the scales are codes of a table with 256 numbers.
    """
    prefix = f"{name}.quant_state.bitsandbytes__"
    states = [key for key in stored if key.startswith(prefix)]
    if len(states) != 1:
        raise ModelError(
            f"The checkpoint has {len(states)} tensors `{prefix}…`, but the quantized weight"
            f" `{name}` requires 1.",
            "Download the checkpoint again.",
        )
    state = BlockState.parse(states[0], np.asarray(read(states[0])).tobytes())
    outputs, inputs = state.shape
    codes = -(-outputs * inputs // 2)
    weight = checked_part(stored, name, ("U8", "I8", "BF16", "F16", "F32"))
    if weight.num_bytes != codes:
        raise ModelError(
            f"The tensor `{name}` has {weight.num_bytes} bytes, but {outputs} x {inputs} codes of 4"
            f" bits require {codes}.",
            "Download the checkpoint again.",
        )
    blocks = -(-outputs * inputs // state.block_size)
    is_nested = f"{name}.nested_absmax" in stored
    parts = {
        "weight": weight,
        "absmax": checked_part(
            stored, f"{name}.absmax", ("U8",) if is_nested else ("F32",), (blocks,)
        ),
        "quant_map": checked_part(stored, f"{name}.quant_map", ("F32",), (16,)),
        "state": checked_part(stored, states[0], ("U8",)),
    }
    if is_nested:
        nested = math.ceil(blocks / state.nested_block_size)
        parts["nested_absmax"] = checked_part(stored, f"{name}.nested_absmax", ("F32",), (nested,))
        parts["nested_quant_map"] = checked_part(
            stored, f"{name}.nested_quant_map", ("F32",), (256,)
        )
    return FourBitWeight(name, state, parts).tensor(read(parts["quant_map"].name))
