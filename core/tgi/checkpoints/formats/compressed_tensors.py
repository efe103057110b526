"""The format `compressed-tensors`: integers, fp8, nvfp4 and mxfp4 by groups of modules. Source:
compressed-tensors, `quantization/quant_config.py`, `quantization/quant_args.py` and `compressors/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from tgi.architectures.checkpoint import StoredTensor
from tgi.architectures.config_reader import ConfigReader
from tgi.checkpoints.formats.compressed_layouts import Scheme, compressed_tensor
from tgi.checkpoints.formats.excluded_modules import excluded_modules
from tgi.checkpoints.formats.stored_parts import modules_with
from tgi.checkpoints.quantized import Activation
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.errors import ModelError

__all__ = ["read"]

_PLACE = "`quantization_config` of config.json"
_FORMATS = {
    name: name
    for name in (
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
        "mxfp8-quantized",
        "dense",
        "mixed-precision",
    )
}
_STRATEGIES = {
    name: name for name in ("tensor", "channel", "group", "tensor_group", "block", "token")
}
_TYPES = {"int": "int", "float": "float"}
_DENSE = ("dense", "mixed-precision")
_REGEX = "re:"
_PARTS = ("weight_packed", "weight_scale")
_KV_CACHE_BITS = {"float": "fp8", "int": "int8"}


def read(settings: Mapping[str, Any]) -> CheckpointFormat:
    """Read the settings of `quant_method` `compressed-tensors`. Raises `ModelError` with the key
    and the value if a setting is not supported.
    """
    reader = ConfigReader(settings, _PLACE)
    _check_not_sparse(reader)
    name = reader.choice("format", table=_FORMATS, default="pack-quantized")
    groups = reader.section("config_groups")
    schemes: list[tuple[tuple[str, ...], Scheme]] = []
    for key in groups.nested:
        group = groups.section(key)
        targets = excluded_modules(settings["config_groups"][key], ("targets",))
        scheme = _scheme(group, group.choice("format", table=_FORMATS, default=name))
        if scheme is not None:
            schemes.append((targets, scheme))
    return _CompressedTensors(
        name,
        tuple(schemes),
        excluded_modules(settings, ("ignore",)),
        _kv_cache(reader),
    )


@final
@dataclass(frozen=True)
class _CompressedTensors:
    layout: str
    schemes: tuple[tuple[tuple[str, ...], Scheme], ...]
    ignored: tuple[str, ...]
    kv_cache: str | None

    @property
    def name(self) -> str:
        return "compressed-tensors"

    @property
    def description(self) -> str:
        kinds = " and ".join(dict.fromkeys(scheme.name for _, scheme in self.schemes))
        cache = f", KV cache scheme {self.kv_cache}" if self.kv_cache else ""
        return f"compressed-tensors {self.layout}, {kinds or 'no scheme'}{cache}"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        modules = {module for part in _PARTS for module in modules_with(stored, part)}
        tensors = [
            compressed_tensor(stored, module, self._scheme(module), read)
            for module in sorted(modules)
        ]
        return {tensor.name: tensor for tensor in tensors}

    def _scheme(self, module: str) -> Scheme:
        """Return the scheme of a module. The name of a module, or a regular expression that matches
        the name, takes precedence over the name of a class. Raises `ModelError`.
        """
        for entry in self.ignored:
            if _matches(entry, module):
                raise ModelError(
                    f"The module `{module}` has quantized tensors, but `ignore` in {_PLACE}"
                    f" contains `{entry}`.",
                    "Correct config.json, or download the checkpoint again.",
                )
        for targets, scheme in self.schemes:
            if any(_matches(target, module) for target in targets):
                return scheme
        for targets, scheme in self.schemes:
            if any(_is_class(target) for target in targets):
                return scheme
        raise ModelError(
            f"The module `{module}` has quantized tensors, but no group of `config_groups` in"
            f" {_PLACE} has it as a target.",
            "Correct config.json, or download the checkpoint again.",
        )


def _matches(target: str, module: str) -> bool:
    """Whether a target is the name of the module, or a regular expression that matches the start of
    the name.
    """
    if not target.startswith(_REGEX):
        return target == module
    try:
        return re.match(target.removeprefix(_REGEX), module) is not None
    except re.error as error:
        raise ModelError(
            f"`{target}` in {_PLACE} is not a regular expression: {error}.", "Correct config.json."
        ) from error


def _is_class(target: str) -> bool:
    """Whether a target is the name of a class, such as Linear. The names of the stored tensors do
    not contain the class of a module, so that every class may be meant.
    """
    return target.isidentifier() and target[:1].isupper()


def _scheme(group: ConfigReader, layout: str) -> Scheme | None:
    if layout in _DENSE or not group.has("weights"):
        return None
    weights = group.section("weights")
    block = weights.integers("block_structure")
    strategy = weights.choice("strategy", table=_STRATEGIES, default="tensor")
    if strategy == "block" and (len(block) != 2 or min(block) < 1):
        raise weights.error("block_structure", "must be a list of 2 positive whole numbers")
    size = weights.optional_integer("group_size", default=None, minimum=-1)
    if strategy in ("group", "tensor_group") and (size is None or size < 1):
        raise weights.error("group_size", "must be a whole number >= 1 for groups")
    return Scheme(
        layout,
        weights.choice("type", table=_TYPES, default="int"),
        weights.integer("num_bits", default=8),
        strategy,
        size if size is not None and size > 0 else None,
        (block[0], block[1]) if strategy == "block" else None,
        weights.boolean("symmetric", default=True),
        _activation(group),
    )


def _activation(group: ConfigReader) -> Activation:
    """Return the activation rule of the closest kind. Inputs of 4 bits have no kind."""
    if not group.has("input_activations"):
        return Activation.NONE
    inputs = group.section("input_activations")
    if inputs.integer("num_bits", default=8) != 8:
        return Activation.NONE
    is_dynamic = not inputs.has("dynamic") or inputs.boolean("dynamic")
    match inputs.choice("type", table=_TYPES, default="int"), is_dynamic:
        case "int", True:
            return Activation.INT8_DYNAMIC
        case "int", False:
            return Activation.INT8_STATIC
        case _, True:
            return Activation.FP8_DYNAMIC
        case _:
            return Activation.FP8_STATIC


def _kv_cache(reader: ConfigReader) -> str | None:
    if not reader.has("kv_cache_scheme"):
        return None
    return reader.section("kv_cache_scheme").choice("type", table=_KV_CACHE_BITS, default="float")


def _check_not_sparse(reader: ConfigReader) -> None:
    """Raise `ModelError` for the 2:4 sparse formats, and for weights that are not compressed."""
    if reader.is_string("format") and reader.text("format") in ("marlin-24", "sparse-24-bitmask"):
        raise reader.error("format", "is a sparse 2:4 format, which is not supported")
    sparsity = reader.section("sparsity_config") if reader.has("sparsity_config") else None
    if sparsity is not None and sparsity.has("format") and sparsity.text("format") != "dense":
        raise sparsity.error("format", "is a sparse format (2:4), which is not supported")
    statuses = {"compressed": True, "frozen": True}
    reader.choice("quantization_status", table=statuses, default="compressed")
