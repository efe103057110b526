"""Chooses the backend for a model and creates the configuration of the engine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tgi.architectures import ModelSpec
from tgi.backend import EngineConfig, ModelError
from tgi.backend.core_options import QUANTIZATION_MEANINGS
from tgi.checkpoints import detection
from tgi.config import Environment, ParsedArguments, PluginOption, num_shard_of, read_plugin_options
from tgi.models.source import Model
from tgi.plugins import AUTO, BackendRegistry, Candidate, Selection

__all__ = [
    "check_quantize",
    "engine_config",
    "remaining_quantize",
    "select_backend",
    "with_plugin_options",
]


def check_quantize(model: Model, quantize: str | None) -> None:
    """Raise `ModelError` if the value of `--quantize` contradicts the checkpoint."""
    if model.quantization is not None:
        detection.check_quantize(model.quantization, model.source.folder, quantize)
        return
    meaning = None if quantize is None else QUANTIZATION_MEANINGS.get(quantize)
    if meaning is not None and meaning.reads_checkpoint and isinstance(model.spec, ModelSpec):
        raise ModelError(
            f"`--quantize {quantize}` {meaning.text}, but this checkpoint is not quantized.",
            "Remove the option, or use `--quantize int8` to quantize the weights while they are"
            " loaded.",
        )


def remaining_quantize(model: Model, quantize: str | None) -> str | None:
    """Return the value of `--quantize` for the backend. The value is None if the checkpoint is
    quantized, because the backend then uses the format of the checkpoint.
    """
    return quantize if model.quantization is None else None


def engine_config(model: Model, parsed: ParsedArguments, environment: Environment) -> EngineConfig:
    """Create the configuration of the engine before a backend is chosen."""
    options = parsed.options
    return EngineConfig(
        backend=options.backend,
        model_path=str(model.source.path),
        spec=model.spec,
        dtype=options.dtype,
        quantize=remaining_quantize(model, options.quantize),
        kv_cache_dtype=options.kv_cache_dtype,
        num_shard=num_shard_of(options),
        memory_fraction=options.cuda_memory_fraction,
        trust_remote_code=options.trust_remote_code,
        cache_dir=environment.cache_folder,
        model_format=model.source.model_format.name,
    )


def select_backend(
    model: Model,
    parsed: ParsedArguments,
    environment: Environment,
    variables: Mapping[str, str],
    *,
    registry: BackendRegistry,
) -> tuple[EngineConfig, Selection]:
    """Choose the backend. Returns the configuration for the backend, and the selection. With
    `auto`, the options of the chosen backend are read after the selection.

    Raises `BackendError` if no backend can be used, and `UsageError` if an option of the backend
    has an invalid value.
    """
    config = engine_config(model, parsed, environment)
    name = parsed.options.backend
    if name != AUTO and name in registry.names:
        config = with_plugin_options(config, registry.candidate(name), parsed, variables)
        return config, registry.select(name, model.spec, config)
    selection = registry.select(name, model.spec, config)
    return with_plugin_options(config, selection.chosen, parsed, variables), selection


def with_plugin_options(
    config: EngineConfig,
    candidate: Candidate,
    parsed: ParsedArguments,
    variables: Mapping[str, str],
) -> EngineConfig:
    """Return the configuration for the backend of `candidate`. The configuration contains the
    values of the options that this backend defines. Raises `UsageError` if a value is invalid.
    """
    declared = () if candidate.info is None else candidate.info.options
    rows = [PluginOption(option.name, option.default, option.choices) for option in declared]
    values = read_plugin_options(candidate.name, rows, parsed.plugin_values, variables)
    return msgspec.structs.replace(config, backend=candidate.name, options=values)
