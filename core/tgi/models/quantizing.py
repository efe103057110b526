"""Prepares the quantization of a model: the calibration text as token ids, the backend, and the
folder with copies of all other files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from tgi.architectures import ModelSpec
from tgi.backend import GptqSettings, Int32Array, QuantizationJob, Quantizer
from tgi.errors import BackendError, ConfigError, ModelError
from tgi.models.output_folder import new_folder
from tgi.models.source import Model
from tgi.plugins import BackendRegistry
from tgi.plugins.boundary import call_plugin

if TYPE_CHECKING:
    from tgi.text import Tokenizer

__all__ = ["Calibration", "calibration_text", "quantize_model", "token_sequences"]

_TEXT_NAME = "calibration.txt"
_MAX_TEXT_BYTES = 256 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".h5", ".msgpack")
_MIN_SEQUENCE_TOKENS = 2


@final
@dataclass(frozen=True)
class Calibration:
    """The text on which the activations are measured: at most `num_samples` sequences of at most
    `sequence_length` tokens each.
    """

    text: str
    num_samples: int = 128
    sequence_length: int = 2048


def calibration_text(path: Path | None) -> str:
    """Return the text in the file `path`, or the default text if `path` is None. Raises
    `ConfigError` if the file cannot be read as UTF-8.
    """
    if path is None:
        return resources.files(__package__).joinpath(_TEXT_NAME).read_text(encoding="utf-8")
    try:
        if not path.is_file():
            raise ConfigError(
                f"The calibration text `{path}` is not a file.", "Name a file with plain text."
            )
        size = path.stat().st_size
        if size > _MAX_TEXT_BYTES:
            raise ConfigError(
                f"The calibration text `{path}` has {size} bytes, but the limit is"
                f" {_MAX_TEXT_BYTES}.",
                "Use a part of the text.",
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The calibration text `{path}` cannot be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"The calibration text `{path}` is not UTF-8: byte {error.start} is invalid.",
            "Convert the file to UTF-8.",
        ) from error


def token_sequences(
    calibration: Calibration, tokenizer: Tokenizer, spec: ModelSpec
) -> tuple[Int32Array, ...]:
    """Divide the text into sequences of token ids. Each sequence begins with the token that the
    tokenizer adds to a prompt, if there is one. Raises `ConfigError` if the text is too short.

    If the text is longer than all sequences together, the sequences are spread over the text.
    """
    text = calibration.text
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    limit = spec.max_positions or calibration.sequence_length
    length = min(calibration.sequence_length, limit)
    bos = _first_token(tokenizer)
    step = max(1, length - len(bos))
    parts = [ids[start : start + step] for start in range(0, len(ids), step)]
    parts = [part for part in parts if len(part) >= _MIN_SEQUENCE_TOKENS]
    if not parts:
        raise ConfigError(
            f"The calibration text has {len(ids)} tokens, but at least {_MIN_SEQUENCE_TOKENS} are"
            " required.",
            "Use a text with several thousand words.",
        )
    count = min(calibration.num_samples, len(parts))
    chosen = [parts[number * len(parts) // count] for number in range(count)]
    return tuple(np.array([*bos, *part], np.int32) for part in chosen)


def quantize_model(
    model: Model,
    sequences: tuple[Int32Array, ...],
    settings: GptqSettings,
    *,
    output: Path,
    registry: BackendRegistry,
    backend: str,
    report: Callable[[str], None],
) -> None:
    """Write the quantized model to the new folder `output`. An error or an interruption leaves no
    folder. Raises `ModelError`, `ConfigError` and `BackendError`.
    """
    folder = model.source.folder
    assert isinstance(model.spec, ModelSpec), "the caller has checked the model"
    name, quantizer = _find_quantizer(registry, backend)
    with new_folder(output) as temporary:
        job = QuantizationJob(model.spec, folder, temporary, sequences, settings)
        call_plugin(name, f"quantize `{folder}`", lambda: quantizer.quantize(job, report))
        for path in folder.iterdir():
            is_written = (temporary / path.name).exists()
            if path.is_file() and not path.name.endswith(_WEIGHTS) and not is_written:
                shutil.copyfile(path, temporary / path.name)


def check_quantizable(model: Model) -> ModelSpec:
    """Return the spec of a model. Raises `ModelError` if GPTQ cannot quantize the model."""
    source = model.source
    if model.quantization is not None:
        raise ModelError(
            f"The checkpoint `{source.path}` is already quantized"
            f" ({model.quantization.description}).",
            "Name the original checkpoint.",
        )
    if source.model_format.is_single_file:
        raise ModelError(
            f"`{source.path}` is a file in the format `{source.model_format.name}`. `tgi quantize`"
            " reads safetensors checkpoints only.",
            "Name the folder of the original model.",
        )
    if not isinstance(model.spec, ModelSpec):
        raise ModelError(
            f"The architecture `{model.spec.model_type}` is not built in, and `tgi quantize`"
            " supports built-in architectures only.",
            "`docs/supported-models.md` lists them.",
        )
    return model.spec


def _find_quantizer(registry: BackendRegistry, name: str) -> tuple[str, Quantizer]:
    """Return the usable backend of the highest priority that can quantize models. Raises
    `BackendError` if there is none.
    """
    for candidate in registry.usable(name):
        backend: object = candidate.backend
        if isinstance(backend, Quantizer):
            return candidate.name, backend
    raise BackendError(
        "No usable backend can quantize models."
        if name == "auto"
        else f"The backend `{name}` cannot quantize models.",
        "Install the backend `cpu`: pip install tgi-cpu.",
    )


def _first_token(tokenizer: Tokenizer) -> list[int]:
    """Return the token that the tokenizer adds to the start of a prompt, or an empty list."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    return full[:1] if full[:1] != plain[:1] else []
