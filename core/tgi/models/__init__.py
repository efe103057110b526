"""Finds a model on this machine or on the hub, reads its description, and chooses the backend."""

from tgi.models.backend_choice import engine_config, select_backend, with_plugin_options
from tgi.models.formats import ReadableFormats, installed_formats, usable_formats
from tgi.models.inspection import BackendStatus, ModelCard, QuantizationCard, inspect_model
from tgi.models.memory_estimate import MemoryEstimate, estimate_memory
from tgi.models.readiness import (
    Readiness,
    StartRequest,
    choose_backend,
    find_source,
    read_model,
    read_texts,
    readiness,
    with_description,
)
from tgi.models.resolution import check_weights, describe_model, find_model, find_tokenizer
from tgi.models.source import Model, ModelSource

__all__ = [
    "BackendStatus",
    "MemoryEstimate",
    "Model",
    "ModelCard",
    "ModelSource",
    "QuantizationCard",
    "ReadableFormats",
    "Readiness",
    "StartRequest",
    "check_weights",
    "choose_backend",
    "describe_model",
    "engine_config",
    "estimate_memory",
    "find_model",
    "find_source",
    "find_tokenizer",
    "inspect_model",
    "installed_formats",
    "read_model",
    "read_texts",
    "readiness",
    "select_backend",
    "usable_formats",
    "with_description",
    "with_plugin_options",
]
