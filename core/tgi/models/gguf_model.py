"""Describes the model in a GGUF file from the metadata of the file."""

from __future__ import annotations

from pathlib import Path

from tgi.architectures import ModelSpec, load_spec
from tgi.architectures.config_reader import read_config
from tgi.architectures.file_reader import shown
from tgi.architectures.plausibility import check_num_layers, check_shapes
from tgi.checkpoints.checkpoint import read_headers
from tgi.checkpoints.gguf.container import read_gguf
from tgi.checkpoints.gguf.model_folder import gguf_model_folder
from tgi.checkpoints.gguf.tokenizer import tokenizer_of
from tgi.config import Environment, ServeOptions
from tgi.errors import ModelError
from tgi.models.checkpoint_notices import checkpoint_notices
from tgi.models.source import Model, ModelSource

__all__ = ["check_gguf_tokenizer", "describe_gguf"]


def describe_gguf(source: ModelSource, options: ServeOptions, environment: Environment) -> Model:
    """Read the description of the model. Files beside the GGUF file are not read, except that the
    tokenizer is expected in the folder of the file if none can be built from the metadata.

    Raises `ModelError` if the file is damaged or its architecture is unknown.
    """
    folder = gguf_model_folder(source.path, environment.cache_folder)
    tensors, config = read_headers(source.path), read_config(folder)
    try:
        check_num_layers(config, tensors.shapes)
        spec = load_spec(folder, rope_scaling=options.rope_scaling, rope_factor=options.rope_factor)
        assert isinstance(spec, ModelSpec), "every family of GGUF files is built in"
        check_shapes(spec, config, tensors.shapes, tensors.quantized)
    except ModelError as error:
        raise ModelError(
            f"{shown(source.path)}: its metadata give the config.json in {folder}. {error.cause}",
            "Download another file of this model, or convert the original model again.",
        ) from error
    has_tokenizer = (folder / "tokenizer.json").is_file()
    notices = checkpoint_notices(source.path, spec, tensors)
    tokenizer_folder = folder if has_tokenizer else source.folder
    return Model(source, spec, tokenizer_folder, notices, tensors.format)


def check_gguf_tokenizer(path: Path) -> None:
    """Raise `ModelError` with the reason if no tokenizer can be built from the metadata."""
    tokenizer_of(read_gguf(path))
