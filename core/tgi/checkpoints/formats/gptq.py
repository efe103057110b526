"""GPTQ checkpoints (arXiv 2210.17323), as AutoGPTQ and GPTQModel write them.

A weight [outputs, inputs] is stored as:

* `qweight` int32 [inputs * bits / 32, outputs]: the codes of an output, along the inputs, from the
  lowest bit on.
* `qzeros` int32 [groups, outputs * bits / 32]: the zeros of a group along the outputs. Version 1 of
  the format stores `zero - 1`, and version 2 stores the zero.
* `scales` [groups, outputs]: floating-point scales.
* `g_idx` int32 [inputs]: the group of each input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats import marlin
from tgi.checkpoints.parts import (
    SCALE_KINDS,
    check_part,
    float_values,
    groups_text,
    modules_with,
    num_groups,
    part,
    parts_of,
    unpack_bits,
    weight_name,
)
from tgi.checkpoints.quantized import CodeKind, QuantizedFormat, QuantizedMatrix
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["GptqFormat", "ModuleSettings", "read"]

_BITS = (2, 3, 4, 8)
_WORD_BITS = 32
_ROW_MULTIPLE = 32  # 32 zeros fill whole words for every number of bits
_VERSIONS = ("gptq", "gptq_v2", "marlin")
_INTEGERS = ("I32", "U32")
_REMEDY = "Correct the quantization settings of the checkpoint, or choose another checkpoint."


@final
@dataclass(frozen=True)
class ModuleSettings:
    """The settings of one module."""

    bits: int
    group_size: int | None  # None = all inputs
    has_order: bool  # whether inputs of a group are not adjacent (`desc_act`)
    is_symmetric: bool

    @classmethod
    def of(cls, settings: Settings, base: ModuleSettings | None = None) -> ModuleSettings:
        """Read the settings. Values that are missing are those of `base`."""
        group = settings.integer(
            "group_size", "q_group_size", default=-1 if base is None else base.group_size or -1
        )
        if group < 1 and group != -1:
            raise settings.error("group_size", group, "positive, or -1 for one group per output")
        bits = (
            settings.integer("bits", "w_bit", allowed=_BITS)
            if base is None
            else settings.integer("bits", default=base.bits, allowed=_BITS)
        )
        return cls(
            bits,
            None if group == -1 else group,
            settings.flag("desc_act", default=base.has_order if base else False),
            settings.flag("sym", default=base.is_symmetric if base else False),
        )


@final
@dataclass(frozen=True)
class GptqFormat:
    """The settings of a GPTQ checkpoint. `rules` are the patterns of GPTQModel's `dynamic`, with
    the settings of the modules that match, or None for modules that are not quantized.
    """

    base: ModuleSettings
    zero_offset: int  # the zero of a code minus the stored zero
    rules: tuple[tuple[re.Pattern[str], ModuleSettings | None], ...]
    exceptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The value of `--quantize`."""
        return "gptq"

    @property
    def description(self) -> str:
        """One line for tables and logs."""
        base = self.base
        order = ", ordered by activation" if base.has_order else ""
        mixed = ", other settings for some modules" if self.rules else ""
        return f"GPTQ, {base.bits} bits, {groups_text(base.group_size)}{order}{mixed}"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        """Find the quantized weights. See `CheckpointFormat.tensors`."""
        found = (
            self._tensor(stored, module) for module in modules_with(stored, "qweight", "qzeros")
        )
        return {tensor.name: tensor for tensor in found}

    def _tensor(self, stored: Mapping[str, StoredTensor], module: str) -> QuantizedTensor:
        settings = self._settings_of(module)
        parts = parts_of(stored, module, ("qweight", "qzeros", "scales"), self.exceptions)
        if f"{module}.g_idx" in stored or settings.has_order:
            parts["g_idx"] = part(stored, module, "g_idx")
        shape = _checked_shape(parts, settings)
        has_order = settings.has_order and settings.group_size is not None
        form = QuantizedFormat(
            CodeKind.INTEGER,
            settings.bits,
            settings.group_size,
            scale_kind=SCALE_KINDS[parts["scales"].dtype],
            zero=1 << (settings.bits - 1) if settings.is_symmetric else 0,
            has_zeros=not settings.is_symmetric,
            has_input_order=has_order,
        )
        decode = _Decoder(form, parts, self.zero_offset).decode
        return QuantizedTensor(
            weight_name(module), shape, form, parts, decode, row_multiple=_ROW_MULTIPLE
        )

    def _settings_of(self, module: str) -> ModuleSettings:
        """Return the settings of a module that is quantized. The first matching rule applies."""
        for pattern, settings in self.rules:
            if pattern.match(module):
                if settings is None:
                    raise ModelError(
                        f"The weight of `{module}` is quantized, but `dynamic` in the config"
                        f" excludes it by the pattern `{pattern.pattern}`.",
                        _REMEDY,
                    )
                return settings
        return self.base


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of GPTQ. Checkpoints that were converted to Marlin have the same
    `quant_method`. Raises `ModelError`.
    """
    version = settings.text("checkpoint_format", default="gptq", allowed=_VERSIONS)
    if version == "marlin" or settings.flag("is_marlin_format", default=False):
        return marlin.read(settings)
    base = ModuleSettings.of(settings)
    return GptqFormat(
        base,
        zero_offset=0 if version == "gptq_v2" else 1,
        rules=tuple(_rules(settings, base)),
        exceptions=settings.texts("modules_to_not_convert"),
    )


def _rules(
    settings: Settings, base: ModuleSettings
) -> list[tuple[re.Pattern[str], ModuleSettings | None]]:
    """Read `dynamic`: a pattern that begins with `-:` excludes modules, and any other pattern, with
    or without `+:`, changes the settings of the modules that match.
    """
    rules: list[tuple[re.Pattern[str], ModuleSettings | None]] = []
    for key, section in settings.sections("dynamic").items():
        text = key.removeprefix("-:").removeprefix("+:")
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise settings.error(
                "dynamic", key, f"regular expressions of module names ({error})"
            ) from error
        rules.append((pattern, None if key.startswith("-:") else ModuleSettings.of(section, base)))
    return rules


def _checked_shape(parts: Mapping[str, StoredTensor], settings: ModuleSettings) -> tuple[int, int]:
    """Check the parts. Returns (outputs, inputs)."""
    codes, bits = parts["qweight"], settings.bits
    if len(codes.shape) != 2 or codes.shape[0] * _WORD_BITS % bits:
        raise ModelError(
            f"The tensor `{codes.name}` has shape {list(codes.shape)}, which is no matrix of"
            f" {bits}-bit codes.",
            _REMEDY,
        )
    inputs, outputs = codes.shape[0] * _WORD_BITS // bits, codes.shape[1]
    groups = num_groups(inputs, settings.group_size)
    check_part(codes, codes.shape, _INTEGERS)
    check_part(parts["scales"], (groups, outputs), ("F16", "BF16", "F32"), codes)
    check_part(parts["qzeros"], (groups, -(-outputs * bits // _WORD_BITS)), _INTEGERS, codes)
    if outputs * bits % _WORD_BITS:
        raise ModelError(
            f"The tensor `{codes.name}` has {outputs} outputs, but GPTQ requires a multiple of"
            f" {_WORD_BITS // bits if _WORD_BITS % bits == 0 else _WORD_BITS}.",
            _REMEDY,
        )
    if "g_idx" in parts:
        check_part(parts["g_idx"], (inputs,), ("I32", "I64"), codes)
    return outputs, inputs


@final
@dataclass(frozen=True)
class _Decoder:
    """Converts the parts of one weight to the canonical form."""

    form: QuantizedFormat
    parts: Mapping[str, StoredTensor]
    zero_offset: int

    def decode(self, read_part: Read, expert: int | None, rows: slice) -> QuantizedMatrix:
        """Decode some outputs. The weights of an expert are separate tensors, so `expert` is
        None.
        """
        assert expert is None, "each expert has its own tensors"
        form, parts, bits = self.form, self.parts, self.form.bits
        order = _input_order(form, parts, read_part)
        codes = unpack_bits(read_part("qweight")[:, rows].T, bits)
        scales = float_values(read_part("scales")[:, rows], parts["scales"].dtype).T
        words = slice(rows.start * bits // _WORD_BITS, rows.stop * bits // _WORD_BITS)
        stored_zeros = unpack_bits(read_part("qzeros")[:, words], bits)
        zeros = (stored_zeros + np.uint8(self.zero_offset)) & np.uint8((1 << bits) - 1)
        if not form.has_zeros and (zeros != form.zero).any():
            raise ModelError(
                f"The config says that the quantization is symmetric, but `{parts['qzeros'].name}`"
                f" contains other zeros than {form.zero}.",
                "Set `sym` to false, or `checkpoint_format` to the version that wrote the"
                " checkpoint.",
            )
        return QuantizedMatrix(
            form,
            np.ascontiguousarray(codes if order is None else codes[:, order]),
            np.ascontiguousarray(scales),
            zeros=np.ascontiguousarray(zeros.T) if form.has_zeros else None,
            input_order=order,
        )


def _input_order(
    form: QuantizedFormat, parts: Mapping[str, StoredTensor], read_part: Read
) -> npt.NDArray[np.int32] | None:
    """Return the inputs sorted by their group, or None if all groups are adjacent inputs."""
    if "g_idx" not in parts:
        return None
    groups = read_part("g_idx").astype(np.int64)
    size = form.group_inputs or len(groups)
    expected = np.arange(len(groups)) // size
    order = np.argsort(groups, kind="stable")
    if (groups[order] != expected).any():
        raise ModelError(
            f"The tensor `{parts['g_idx'].name}` does not assign {size} inputs to each group.",
            "The checkpoint is damaged, or `group_size` in its config is wrong.",
        )
    if not form.has_input_order:
        if form.group_inputs is not None and (groups != expected).any():
            raise ModelError(
                f"The config says that groups are adjacent inputs, but `{parts['g_idx'].name}` has"
                " another order.",
                "Set `desc_act` to true in the quantization settings of the checkpoint.",
            )
        return None
    return order.astype(np.int32)
