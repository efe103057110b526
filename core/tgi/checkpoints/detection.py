"""Finds the format of a quantized checkpoint in the files beside its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgi.architectures.file_reader import read_json_object, shown
from tgi.checkpoints.formats.table import FORMATS
from tgi.checkpoints.gguf.container import is_gguf_path, read_gguf
from tgi.checkpoints.gguf.format import gguf_format
from tgi.checkpoints.quantized_tensor import CheckpointFormat
from tgi.checkpoints.settings import Settings
from tgi.errors import ModelError

__all__ = ["check_quantize", "find_format", "find_settings"]

_SECTIONS = ("quantization_config", "compression_config")
_SEPARATE_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
"""Files of older quantizers, and the method that wrote them."""


def find_settings(model_path: Path) -> Settings | None:
    """Return the settings of the quantization, with `quant_method`. Returns None if the checkpoint
    is not quantized. Raises `ModelError` if a file cannot be read.

    The section of config.json has precedence over separate files, as in TGI.
    """
    config_path = model_path / "config.json"
    config = Settings(
        read_json_object(config_path) if os.path.lexists(config_path) else {}, shown(config_path)
    )
    text_config = config.values.get("text_config")
    nested = Settings(text_config if isinstance(text_config, Mapping) else {}, config.place)
    for owner in (config, nested):
        section = owner.section(*_SECTIONS)
        if section is not None and section.values:
            return _with_method(section, _inferred_method(section.values))
    for name, method in _SEPARATE_FILES.items():
        path = model_path / name
        if os.path.lexists(path):
            return _with_method(Settings(read_json_object(path), shown(path)), method)
    return None


def find_format(model_path: Path) -> CheckpointFormat | None:
    """Return the format of the checkpoint in the folder or GGUF file `model_path`, or None if the
    checkpoint is not quantized. Raises `ModelError` if the format is unknown or a setting is wrong.
    """
    if is_gguf_path(model_path):
        return gguf_format(read_gguf(model_path))
    settings = find_settings(model_path)
    if settings is None:
        return None
    method = settings.text("quant_method")
    if method == "gguf":
        return None  # transformers saved the dequantized weights of a GGUF file
    if method not in FORMATS:
        raise ModelError(
            f"{settings.place}: the quantization method `{shown(method)}` is not supported. The"
            f" supported methods are {', '.join(sorted(FORMATS))}.",
            "Choose a checkpoint with one of these methods, or the unquantized checkpoint.",
        )
    return FORMATS[method](settings)


def check_quantize(form: CheckpointFormat, folder: Path, quantize: str | None) -> None:
    """Raise `ModelError` if the value of `--quantize` contradicts the format of a checkpoint.

    The value may be the name of the format or its `quant_method`. It has no effect, because the
    format of the checkpoint is selected automatically.
    """
    if quantize is None or quantize == form.name:
        return
    settings = find_settings(folder)
    if settings is not None and quantize == settings.text("quant_method"):
        return
    raise ModelError(
        f"`--quantize {quantize}` contradicts the checkpoint, which is already quantized"
        f" ({form.description}).",
        f"Remove the option: the format `{form.name}` is selected automatically.",
    )


def _inferred_method(values: Mapping[str, Any]) -> str | None:
    """Return the method of a section without `quant_method`, as old versions of transformers wrote
    it for bitsandbytes.
    """
    is_bitsandbytes = values.get("load_in_8bit") or values.get("load_in_4bit")
    return "bitsandbytes" if is_bitsandbytes else None


def _with_method(settings: Settings, method: str | None) -> Settings:
    if settings.has("quant_method") or method is None:
        return settings
    return Settings({**settings.values, "quant_method": method}, settings.place)
