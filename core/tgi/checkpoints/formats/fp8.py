"""The formats `fp8` and `fbgemm_fp8`: 8-bit floating-point weights with one scale per matrix,
output, or block of 128 x 128. Sources: transformers, `integrations/finegrained_fp8.py` and
`integrations/fbgemm_fp8.py`; the checkpoints of DeepSeek V3, and of AutoFP8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.scaled_weight import ScaledWeight
from tgi.checkpoints.formats.stored_parts import (
    FLOATS,
    check_not_excluded,
    checked_part,
    optional_parts,
)
from tgi.checkpoints.quantized import Activation
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings

__all__ = ["read"]

_CODES = ("F8_E4M3", "F8_E5M2")
_SCALE_SUFFIXES = ("_scale_inv", "_scale")
_EXCLUSIONS = ("modules_to_not_convert", "ignored_layers", "ignore")
_OTHERS = ("input_scale", "activation_scale", "input_scale_ub")
_ACTIVATIONS = {"static": Activation.FP8_STATIC, "dynamic": Activation.FP8_DYNAMIC}


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of `quant_method` `fp8` or `fbgemm_fp8`. Raises `ModelError`."""
    blocks = settings.integers("weight_block_size")
    if len(blocks) not in (0, 2):
        raise settings.error("weight_block_size", blocks, "a list of 2 integers")
    activation = settings.text("activation_scheme", default="dynamic", allowed=_ACTIVATIONS)
    return _Fp8(
        settings.text("quant_method") == "fbgemm_fp8",
        (blocks[0], blocks[1]) if blocks else None,
        _ACTIVATIONS[activation],
        tuple(name for key in _EXCLUSIONS for name in settings.texts(key)),
        settings.place,
    )


@final
@dataclass(frozen=True)
class _Fp8:
    is_fbgemm: bool
    blocks: tuple[int, int] | None
    activation: Activation
    excluded: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return "fbgemm_fp8" if self.is_fbgemm else "fp8"

    @property
    def description(self) -> str:
        if self.blocks is not None:
            return f"fp8 in blocks of {self.blocks[0]} x {self.blocks[1]}"
        return "fp8 per output" if self.is_fbgemm else "fp8 per tensor"

    def tensors(
        self,
        stored: Mapping[str, StoredTensor],
        read: Read,
    ) -> Mapping[str, QuantizedTensor]:
        return {
            name: self._tensor(stored, name)
            for name, part in stored.items()
            if part.dtype in _CODES and not name.endswith(_SCALE_SUFFIXES)
        }

    def _tensor(self, stored: Mapping[str, StoredTensor], name: str) -> QuantizedTensor:
        """Build the weight `name`. Its scale is `<name>_scale_inv` or `<name>_scale`. In spite of
        its name, `_scale_inv` is a factor of the weights, not a divisor.
        """
        check_not_excluded(name, self.excluded, self.place)
        expected = f"{name}{_SCALE_SUFFIXES[0 if self.blocks else 1]}"
        names = [f"{name}{suffix}" for suffix in _SCALE_SUFFIXES if f"{name}{suffix}" in stored]
        scale = checked_part(stored, names[0] if names else expected, (*FLOATS, "F8_E8M0"))
        module = name.removesuffix(".weight")
        return ScaledWeight(
            name,
            stored[name],
            scale,
            self.blocks,
            activation=self.activation,
            others=optional_parts(stored, module, _OTHERS),
        ).tensor()
