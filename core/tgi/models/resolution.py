"""Finds the model of `--model-id`, and reads its description."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tgi.architectures import ModelSpec, load_spec
from tgi.architectures.checkpoint import INDEX_NAME, stored_tensors
from tgi.architectures.config_reader import read_config
from tgi.architectures.plausibility import check_num_layers, check_shapes
from tgi.checkpoints.checkpoint import LogicalTensors, read_headers
from tgi.checkpoints.detection import find_format
from tgi.config import Environment, ServeOptions
from tgi.errors import BackendError, ModelError
from tgi.models.checkpoint_notices import checkpoint_notices
from tgi.models.formats import ReadableFormats
from tgi.models.hub import HubModel, fetch_model
from tgi.models.local import find_local_model, find_override
from tgi.models.source import Model, ModelSource

__all__ = ["check_weights", "describe_model", "find_model", "find_tokenizer"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_HUB_ID_PARTS = 2  # owner and name


def find_model(
    options: ServeOptions,
    environment: Environment,
    readable: ReadableFormats,
    log: Callable[[str], None],
) -> ModelSource:
    """Find the model on this machine, or download it from the hub. Without a model id, the demo
    model is used. Raises `ModelError`.
    """
    model_id = options.model_id
    if model_id is None:
        from tgi.demo import demo_model_path  # noqa: PLC0415 - imported only if it is used

        log("No model was named: serving the demo model.")
        return ModelSource("tgi/demo", demo_model_path(log))
    if options.weights_cache_override is not None:
        folder = Path(options.weights_cache_override).expanduser()
        return find_override(model_id, folder, readable)
    path = Path(model_id).expanduser()
    if path.exists():
        return find_local_model(model_id, path, readable)
    hub_model = _hub_model(model_id, readable)
    if hub_model is None:
        raise ModelError(
            f"The folder `{path}` does not exist.",
            "Name an existing folder, or a hub id like `owner/name`.",
        )
    return fetch_model(hub_model, options, environment, readable, log)


def describe_model(
    source: ModelSource,
    options: ServeOptions,
    environment: Environment,
    readable: ReadableFormats,
) -> Model:
    """Read the description of the model from its config.json. If there is none, a backend that
    supports the format describes the model. Raises `ModelError`, and `BackendError` if no backend
    supports the format.
    """
    if os.path.lexists(source.folder / "config.json"):
        return _read_model(source, options)
    if options.rope_scaling is not None or options.rope_factor is not None:
        raise ModelError(
            f"`--rope-scaling` and `--rope-factor` change the config.json of a model, and there is"
            f" none in `{source.folder}`.",
            "Remove these options.",
        )
    name = source.model_format.name
    registry = readable.registry
    for candidate in readable.candidates:
        description = registry.describe_model(
            candidate, str(source.path), name, environment.cache_folder
        )
        if description is not None:
            folder = description.tokenizer_path
            return Model(source, description.spec, Path(folder) if folder else source.folder)
    raise _no_description(source, readable)


def _read_model(source: ModelSource, options: ServeOptions) -> Model:
    """Read the spec in config.json, and compare it with the headers of the weights if there are
    any.
    """
    folder, config = source.folder, read_config(source.folder)
    tensors = stored_tensors(folder) if _has_safetensors(folder) else {}
    check_num_layers(config, tensors)
    spec = load_spec(folder, rope_scaling=options.rope_scaling, rope_factor=options.rope_factor)
    if not isinstance(spec, ModelSpec):
        return Model(source, spec, folder)
    is_quantized = bool(tensors) and find_format(folder) is not None
    logical = read_headers(folder) if is_quantized else LogicalTensors(None, tensors, {})
    check_shapes(spec, config, logical.shapes, logical.quantized)
    notices = checkpoint_notices(folder, spec, logical) if tensors else ()
    return Model(source, spec, folder, notices, logical.format)


def _has_safetensors(folder: Path) -> bool:
    return os.path.lexists(folder / INDEX_NAME) or any(folder.glob("*.safetensors"))


def find_tokenizer(model: Model) -> Path:
    """Return the folder of the model's tokenizer. Raises `ModelError` if a model in a single-file
    format has no tokenizer.
    """
    folder, source = model.tokenizer_folder, model.source
    if source.model_format.is_single_file and not any(
        (folder / name).is_file() for name in _TOKENIZER_FILES
    ):
        raise ModelError(
            f"There is no tokenizer for `{source.path}`: `{folder}` contains no tokenizer.json.",
            "Copy the tokenizer.json of the original model into the folder of the file.",
        )
    return folder


def check_weights(source: ModelSource, readable: ReadableFormats) -> None:
    """Raise `ModelError` if the model has no weights in a format that a backend supports."""
    if source.path.is_file():
        return
    if not any(source.model_format.matches(path.name) for path in source.path.iterdir()):
        names = " or ".join(form.name for form in readable.formats)
        raise ModelError(
            f"`{source.model_id}` contains no weights in {names} format.",
            "Choose a model or revision with weights in this format.",
        )


def _no_description(source: ModelSource, readable: ReadableFormats) -> BackendError | ModelError:
    name = source.model_format.name
    readers = " and ".join(f"`{reader}`" for reader in readable.registry.readers(name))
    if not readers:
        return BackendError(
            f"`{source.path}` is a model in the format `{name}`, which no installed backend reads.",
            "Name a model in another format, or install a backend that reads this format.",
        )
    return ModelError(
        f"There is no config.json beside `{source.path}`, and {readers} cannot describe a model in"
        f" the format `{name}` without it.",
        "Copy the config.json and tokenizer.json of the original model into the folder of the"
        " file.",
    )


def _hub_model(model_id: str, readable: ReadableFormats) -> HubModel | None:
    """Parse a hub id: `owner/name`, `name`, or `owner/name/FILE` for a file in a single-file
    format. Returns None if the id is the path of a folder.
    """
    if model_id.startswith(("/", ".", "~")) or model_id.endswith("/") or not model_id.strip():
        return None
    parts = PurePosixPath(model_id).parts
    if model_id.count("/") < _HUB_ID_PARTS:
        return HubModel(model_id, model_id)
    model_format = readable.recognize(model_id)
    if model_format is None or not model_format.is_single_file:
        return None
    repository = "/".join(parts[:_HUB_ID_PARTS])
    return HubModel(model_id, repository, "/".join(parts[_HUB_ID_PARTS:]))
