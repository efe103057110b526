"""Describes a model from its config and the headers of its weight files, and reports whether each
installed backend supports the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from tgi.architectures import ModelSpec
from tgi.architectures.checkpoint import main_dtype, stored_tensors
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import SAFETENSORS, EngineConfig
from tgi.checkpoints.checkpoint import LogicalTensors, read_headers
from tgi.checkpoints.exceptions import unquantized_modules
from tgi.config import ServeOptions, num_shard_of
from tgi.models.backend_choice import remaining_quantize
from tgi.models.source import Model
from tgi.plugins import BackendRegistry, Candidate

__all__ = ["BackendStatus", "ModelCard", "Part", "QuantizationCard", "inspect_model"]


_BFLOAT16_BYTES = 2


class Part(msgspec.Struct, frozen=True):
    """The size of one part of the model in the checkpoint."""

    name: str
    parameters: int
    num_bytes: int


class BackendStatus(msgspec.Struct, frozen=True):
    """The support of one installed backend for the model. `status` is `native`, `slow` or `no`.
    `memory` contains the memory that the backend would need, by purpose.
    """

    backend: str
    status: str
    reasons: tuple[str, ...]
    memory: Mapping[str, int]  # bytes
    kv_bytes_per_token: int | None


class QuantizationCard(msgspec.Struct, frozen=True):
    """The quantization of a checkpoint. `matrices` maps the format of a matrix to the number of
    matrices, and `exceptions` maps each kind of matrix that is not quantized to its bytes.
    """

    format: str
    description: str
    matrices: Mapping[str, int]
    exceptions: Mapping[str, int]
    stored_bytes: int  # size of the quantized matrices
    bfloat16_bytes: int  # size of the same matrices in bfloat16


class ModelCard(msgspec.Struct, frozen=True):
    """A description of a model.

    `is_built_in` is True if this project describes the architecture. Otherwise the model requires a
    backend with a fallback. `parts` is read from the headers of safetensors files and is empty for
    other formats. `parameters` is None if the number of parameters is unknown.
    """

    model: str
    revision: str | None
    family: str
    is_built_in: bool
    parameters: int | None
    stored_dtype: str | None
    max_positions: int | None
    vocab_size: int
    layers: int
    parts: tuple[Part, ...]
    backends: tuple[BackendStatus, ...]
    format: str = SAFETENSORS.name
    problem: str = ""  # empty if the model can be served with the given options
    quantization: QuantizationCard | None = None


def inspect_model(
    model: Model, options: ServeOptions, registry: BackendRegistry, problem: str = ""
) -> ModelCard:
    """Describe the model and query every installed backend. `problem` is the reason for which the
    model cannot be served. Raises `ModelError` if the weight files cannot be read.
    """
    source, spec = model.source, model.spec
    is_safetensors = source.model_format.name == SAFETENSORS.name
    if is_safetensors and model.quantization is not None:
        tensors = read_headers(source.path)
    else:
        stored = stored_tensors(source.path) if is_safetensors else {}
        tensors = LogicalTensors(None, stored, {})
    parameters: int | None
    if isinstance(spec, ModelSpec):
        parameters = sum(map(math.prod, tensor_shapes(spec).values()))
        layers = sum(len(stack.layers) for stack in spec.stacks)
    else:
        parameters = sum(map(math.prod, tensors.shapes.values())) or None
        layers = spec.num_layers
    return ModelCard(
        model=source.model_id,
        revision=source.revision,
        family=spec.model_type,
        is_built_in=isinstance(spec, ModelSpec),
        parameters=parameters,
        stored_dtype=main_dtype(tensors.plain),
        max_positions=spec.max_positions or None,
        vocab_size=spec.vocab_size,
        layers=layers,
        parts=_parts(tensors),
        backends=_statuses(model, options, registry),
        format=source.model_format.name,
        problem=problem,
        quantization=_quantization(tensors),
    )


def _quantization(tensors: LogicalTensors) -> QuantizationCard | None:
    if tensors.format is None:
        return None
    quantized = tensors.quantized.values()
    return QuantizationCard(
        tensors.format.name,
        tensors.format.description,
        dict(Counter(tensor.format.name for tensor in quantized)),
        unquantized_modules(tensors),
        sum(tensor.num_bytes for tensor in quantized),
        sum(math.prod(tensor.shape) for tensor in quantized) * _BFLOAT16_BYTES,
    )


def _parts(tensors: LogicalTensors) -> tuple[Part, ...]:
    """Group the tensors by the first words of their name, without the layer index. For example,
    `model.layers.3.mlp.up.weight` belongs to `model.layers.*.mlp`.
    """
    parameters, num_bytes = Counter[str](), Counter[str]()
    for name, shape in tensors.shapes.items():
        part = _part_name(name.split("."))
        parameters[part] += math.prod(shape)
        num_bytes[part] += tensors.num_bytes(name)
    return tuple(Part(name, parameters[name], num_bytes[name]) for name in parameters)


def _part_name(words: Sequence[str]) -> str:
    layer = next((place for place, word in enumerate(words) if word.isdigit()), None)
    if layer is None:
        return ".".join(words[:-1] or words)
    return ".".join([*words[:layer], "*", *words[layer + 1 : layer + 2]])


def _statuses(
    model: Model, options: ServeOptions, registry: BackendRegistry
) -> tuple[BackendStatus, ...]:
    config = EngineConfig(
        backend="",
        model_path=str(model.source.path),
        spec=model.spec,
        dtype=options.dtype,
        quantize=remaining_quantize(model, options.quantize),
        kv_cache_dtype=options.kv_cache_dtype,
        num_shard=num_shard_of(options),
        trust_remote_code=options.trust_remote_code,
        model_format=model.source.model_format.name,
    )
    return tuple(_status(registry.supported(name, model.spec, config)) for name in registry.names)


def _status(candidate: Candidate) -> BackendStatus:
    support = candidate.support
    if support is None or not candidate.usable:
        return BackendStatus(candidate.name, "no", (candidate.problem,), {}, None)
    memory = {item.label: item.num_bytes for item in support.memory}
    reasons = support.reasons
    if candidate.info is not None and not candidate.info.selectable:
        reasons = (*reasons, "only when named")
    return BackendStatus(
        candidate.name, support.status, reasons, memory, memory.get("KV cache of one token")
    )
