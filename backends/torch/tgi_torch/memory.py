"""Computes the sizes of a model in torch and the limits that result from these sizes. This module
imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import final

from tgi.architectures import GenericSpec, ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import RequestedLimits
from tgi.worker.cache_format import CACHE_FORMATS
from tgi.worker.memory import limits, sizes
from tgi.worker.memory.plan import BytesOf, DeviceMemory, MemoryPlan, plan_memory
from tgi_torch.weights.weight_formats import MatrixFormats

__all__ = [
    "DTYPE_BYTES",
    "MemoryFacts",
    "checkpoint_bytes",
    "compute_dtype",
    "kv_bytes_per_token",
    "plan_limits",
    "state_bytes",
    "weights_bytes",
    "workspace_bytes",
]

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2})
"""The dtypes that `--dtype` accepts, and the bytes of one value."""

# The arrays are logits, processed scores, sorted scores, probabilities and cumulative sums.
_LOGITS_COPIES = 5
_CACHE_SHARE = 0.5  # part of the blocks that fit into memory; used if no cache size is given


@final
@dataclass(frozen=True)
class MemoryFacts:
    """Sizes that are known once the weights are loaded."""

    free_bytes: int  # memory that this process may still use
    weights_bytes: int
    dtype: str
    block_size: int
    max_step_tokens: int  # used if `--max-batch-prefill-tokens` is not set
    on_demand: bool = False  # whether the memory of a block is allocated at its first use
    kv_cache_dtype: str | None = None  # None means the dtype of the computation
    weights_detail: str = ""  # shown in the memory report; if empty, the dtype is shown


def compute_dtype(
    requested: str | None, stored: str, quantization: MatrixFormats | None = None
) -> str:
    """Return the dtype of the computation. Raises `BackendError`."""
    return limits.compute_dtype(
        requested, stored, DTYPE_BYTES, is_quantized=quantization is not None
    )


def weights_bytes(spec: ModelSpec, dtype: str, quantization: MatrixFormats | None = None) -> int:
    """Bytes of all parameters. Parameters that `quantization` covers are counted in its format, and
    all others in `dtype`.
    """
    return sum(
        _tensor_bytes(parameter, shape, dtype, quantization)
        for parameter, shape in tensor_shapes(spec).items()
    )


def _tensor_bytes(
    parameter: str, shape: tuple[int, ...], dtype: str, quantization: MatrixFormats | None
) -> int:
    weight_format = (
        None if quantization is None else quantization.parameter_format(parameter, shape)
    )
    if weight_format is not None:
        return weight_format.num_bytes(*shape)
    return math.prod(shape) * DTYPE_BYTES[dtype]


def checkpoint_bytes(model_path: Path, dtype: str) -> int:
    """Bytes of all stored tensors in `dtype`, for a model without a `ModelSpec`. Raises
    `ModelError`.
    """
    return sizes.checkpoint_bytes(model_path, DTYPE_BYTES[dtype])


def kv_bytes_per_token(
    spec: ModelSpec | GenericSpec, dtype: str, kv_cache_dtype: str | None = None
) -> int:
    """Bytes of the cached keys and values of one token over all layers, with their scales. If the
    model has an encoder, the bytes of one encoder token are added.
    """
    if kv_cache_dtype is None:
        return sizes.kv_bytes_per_token(spec, DTYPE_BYTES[dtype])
    form = CACHE_FORMATS[kv_cache_dtype]
    return sizes.kv_bytes_per_token(spec, form.value_bytes, form.scale_bytes)


def state_bytes(spec: ModelSpec | GenericSpec, dtype: str) -> int:
    """Bytes of the recurrent states of one sequence. The size does not depend on the length of the
    sequence.
    """
    return sizes.state_bytes(spec, DTYPE_BYTES[dtype])


def workspace_bytes(
    spec: ModelSpec | GenericSpec, dtype: str, max_step_tokens: int, max_sequences: int
) -> int:
    """Bytes that the largest step needs temporarily."""
    return sizes.workspace_bytes(
        spec, DTYPE_BYTES[dtype], max_step_tokens, max_sequences, logits_copies=_LOGITS_COPIES
    )


def plan_limits(
    spec: ModelSpec | GenericSpec, requested: RequestedLimits, facts: MemoryFacts
) -> MemoryPlan:
    """Keep the limits that the user requested, and derive the other limits. Raises
    `BackendError`.
    """
    bytes_of = BytesOf(
        weights=facts.weights_bytes,
        block=kv_bytes_per_token(spec, facts.dtype, facts.kv_cache_dtype) * facts.block_size,
        state=state_bytes(spec, facts.dtype),
        workspace=partial(workspace_bytes, spec, facts.dtype),
    )
    device = DeviceMemory(
        free_bytes=facts.free_bytes,
        block_size=facts.block_size,
        default_step_tokens=facts.max_step_tokens,
        cache_share=_CACHE_SHARE,
        weights_detail=facts.weights_detail or facts.dtype,
        remedy="Free memory",
        more="more memory",
        on_demand=facts.on_demand,
    )
    return plan_memory(spec, requested, bytes_of, device)
