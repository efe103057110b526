"""Finds a model on this machine or on the hub, reads its description, and chooses the backend."""

from tgi.models.backend_choice import engine_config, select_backend, with_plugin_options
from tgi.models.formats import ReadableFormats, installed_formats, usable_formats
from tgi.models.inspection import BackendStatus, ModelCard, inspect_model
from tgi.models.memory_estimate import MemoryEstimate, estimate_memory
from tgi.models.resolution import check_weights, describe_model, find_model, find_tokenizer
from tgi.models.source import Model, ModelSource

__all__ = [
    "BackendStatus",
    "MemoryEstimate",
    "Model",
    "ModelCard",
    "ModelSource",
    "ReadableFormats",
    "check_weights",
    "describe_model",
    "engine_config",
    "estimate_memory",
    "find_model",
    "find_tokenizer",
    "inspect_model",
    "installed_formats",
    "select_backend",
    "usable_formats",
    "with_plugin_options",
]
