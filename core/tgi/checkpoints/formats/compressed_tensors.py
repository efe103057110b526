"""The format `compressed-tensors`: integers, fp8, nvfp4 and mxfp4, per group of modules. Source:
compressed-tensors, `quantization/quant_config.py`, `quantization/quant_args.py` and `compressors/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.formats.compressed_layouts import Scheme, compressed_tensor
from tgi.checkpoints.parts import modules_with
from tgi.checkpoints.quantized import Activation
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["read"]

_LAYOUTS = (
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
_STRATEGIES = ("tensor", "channel", "group", "tensor_group", "block")
_TYPES = ("int", "float")
_ACTIVATIONS = {
    ("int", True): Activation.INT8_DYNAMIC,
    ("int", False): Activation.INT8_STATIC,
    ("float", True): Activation.FP8_DYNAMIC,
    ("float", False): Activation.FP8_STATIC,
}
_DENSE = ("dense", "mixed-precision")
_SPARSE = ("marlin-24", "sparse-")
_REGEX = "re:"
_PARTS = ("weight_packed", "weight_scale")


def read(settings: Settings) -> CheckpointFormat:
    """Read the settings of `quant_method` `compressed-tensors`. Raises `ModelError` with the key
    and the value if a setting is not supported.
    """
    _check_not_sparse(settings)
    layout = settings.text("format", default="pack-quantized", allowed=_LAYOUTS)
    schemes = tuple(
        (group.texts("targets"), scheme)
        for group in settings.sections("config_groups").values()
        if (scheme := _scheme(group, layout)) is not None
    )
    cache = settings.section("kv_cache_scheme")
    return _CompressedTensors(
        layout,
        schemes,
        settings.texts("ignore"),
        None if cache is None else cache.text("type", default="float", allowed=_TYPES),
        settings.place,
    )


@final
@dataclass(frozen=True)
class _CompressedTensors:
    layout: str
    schemes: tuple[tuple[tuple[str, ...], Scheme], ...]
    ignored: tuple[str, ...]
    kv_cache: str | None
    place: str

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
                    f"The module `{module}` has quantized tensors, but `ignore` in {self.place}"
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
            f" {self.place} has it as a target.",
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
            f"The target `{target}` in config.json is not a regular expression: {error}.",
            "Correct config.json.",
        ) from error


def _is_class(target: str) -> bool:
    """Whether a target is the name of a class, such as Linear. The names of the stored tensors do
    not contain the class of a module, so such a target may apply to every module.
    """
    return target.isidentifier() and target[:1].isupper()


def _scheme(group: Settings, default_layout: str) -> Scheme | None:
    """Read a group of `config_groups`. Returns None if its weights are not quantized."""
    layout = group.text("format", default=default_layout, allowed=_LAYOUTS)
    weights = group.section("weights")
    if layout in _DENSE or weights is None:
        return None
    block = weights.integers("block_structure")
    strategy = weights.text("strategy", default="tensor", allowed=_STRATEGIES)
    if strategy == "block" and len(block) != 2:
        raise weights.error("block_structure", block, "a list of 2 integers")
    size = weights.integer("group_size", default=-1)
    is_grouped = strategy in ("group", "tensor_group")
    if is_grouped and size < 1:
        raise weights.error("group_size", size, "an integer >= 1")
    return Scheme(
        layout,
        weights.text("type", default="int", allowed=_TYPES),
        weights.integer("num_bits", default=8, allowed=range(1, 9)),
        strategy,
        size if is_grouped else None,
        (block[0], block[1]) if strategy == "block" else None,
        weights.flag("symmetric", default=True),
        _activation(group.section("input_activations")),
    )


def _activation(inputs: Settings | None) -> Activation:
    """Return the activation rule. Inputs of 4 bits have no rule. `dynamic` may be `local`, which
    means that only the scales of groups are dynamic.
    """
    if inputs is None or inputs.integer("num_bits", default=8) != 8:
        return Activation.NONE
    kind = inputs.text("type", default="int", allowed=_TYPES)
    return _ACTIVATIONS[kind, bool(inputs.values.get("dynamic", False))]


def _check_not_sparse(settings: Settings) -> None:
    """Raise `ModelError` for sparse weights, and for weights that are not compressed."""
    sparsity = settings.section("sparsity_config")
    for section in (settings, sparsity):
        layout = section.text("format", default="dense") if section is not None else "dense"
        if layout.startswith(_SPARSE):
            raise ModelError(
                f"The format `{layout}` in {settings.place} is sparse (2:4), which is not"
                " supported.",
                "Choose a checkpoint with dense weights.",
            )
    settings.text("quantization_status", default="compressed", allowed=("compressed", "frozen"))
