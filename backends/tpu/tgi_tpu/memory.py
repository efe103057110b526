"""Computes the sizes of a model on one chip and the limits that result from these sizes. This
module imports no framework.

All sizes are per chip. Each of the `num_shard` chips has a part of the weights and of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import final

import msgspec

from tgi.architectures import ModelSpec
from tgi.architectures.weight_map import tensor_shapes
from tgi.backend import RequestedLimits
from tgi.worker.memory import limits, sizes
from tgi.worker.memory.plan import BytesOf, DeviceMemory, MemoryPlan, plan_memory
from tgi_tpu.weights.matrix_formats import MatrixFormat

__all__ = [
    "BLOCK_SIZE",
    "BUCKETS_OPTION",
    "DTYPE_BYTES",
    "INT8_NAMES",
    "MemoryFacts",
    "compute_dtype",
    "kv_bytes_per_token",
    "plan_limits",
    "weights_bytes",
    "workspace_bytes",
]

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float32": 4})
"""The dtypes that `--dtype` accepts, and the bytes of one value. TPU chips do not support
float16.
"""

INT8_NAMES = ("bitsandbytes", "eetq", "int8")
"""The values of `--quantize`. Weights have 8 bits and a scale per output, and are quantized while
they are loaded.
"""

BLOCK_SIZE = 32
"""Tokens per cache block. A block is large enough for one fetch by the kernels, and small enough
that most of a common prefix can be shared.
"""

BUCKETS_OPTION = "--tpu-token-buckets"
"""The option with the numbers of tokens to which steps are padded."""

_NO_FORMATS: Mapping[str, MatrixFormat] = MappingProxyType({})

# Logits, scores before and after the warpers, keys, probabilities, two counts, and the reported
# distribution.
_LOGITS_COPIES = 8
_CACHE_SHARE = 0.9  # part of the blocks that fit into memory; used if no cache size is given
_DEPTH = 2  # steps in flight


@final
@dataclass(frozen=True)
class MemoryFacts:
    """Sizes that are known once the weights are loaded."""

    free_bytes: int  # memory that one chip may still use
    weights_bytes: int
    block_bytes: int  # bytes of one cache block over all layers
    block_size: int  # tokens
    dtype: str
    default_step_tokens: int  # used if `--max-batch-prefill-tokens` is not set
    weights_detail: str | None = None  # the format of the weights; None = `dtype`


def compute_dtype(requested: str | None, stored: str | None) -> str:
    """Return the dtype of the computation. Raises `BackendError`."""
    return limits.compute_dtype(requested, stored, DTYPE_BYTES)


def weights_bytes(
    spec: ModelSpec,
    dtype: str,
    quantize: str | None = None,
    formats: Mapping[str, MatrixFormat] = _NO_FORMATS,
) -> int:
    """Bytes of all parameters in `dtype`. If `quantize` is set, matrices use 8 bits per value.
    `formats` are the formats of the quantized parameters of a checkpoint.
    """
    each = {True: 1 if quantize else DTYPE_BYTES[dtype], False: DTYPE_BYTES[dtype]}
    return sum(
        formats[parameter].num_bytes(shape)
        if parameter in formats
        else math.prod(shape) * each[len(shape) > 1]
        for parameter, shape in tensor_shapes(spec).items()
    )


def kv_bytes_per_token(spec: ModelSpec, dtype: str) -> int:
    """Bytes of the cached keys and values of one token over all layers."""
    return sizes.kv_bytes_per_token(spec, DTYPE_BYTES[dtype])


def workspace_bytes(spec: ModelSpec, dtype: str, max_step_tokens: int, max_sequences: int) -> int:
    """Bytes that the largest step needs temporarily."""
    return sizes.workspace_bytes(
        spec, DTYPE_BYTES[dtype], max_step_tokens, max_sequences, logits_copies=_LOGITS_COPIES
    )


def plan_limits(spec: ModelSpec, requested: RequestedLimits, facts: MemoryFacts) -> MemoryPlan:
    """Keep the limits that the user requested, and derive the other limits. Raises
    `BackendError`.
    """
    context = limits.requested_context(spec, requested)
    max_sequences = requested.max_batch_size or requested.max_concurrent_requests
    bytes_of = BytesOf(
        weights=facts.weights_bytes,
        block=facts.block_bytes,
        state=0,
        workspace=partial(workspace_bytes, spec, facts.dtype),
    )
    device = DeviceMemory(
        free_bytes=facts.free_bytes,
        block_size=facts.block_size,
        default_step_tokens=min(facts.default_step_tokens, max_sequences * context),
        cache_share=_CACHE_SHARE,
        weights_detail=facts.weights_detail or facts.dtype,
        remedy="Use more chips (`--num-shard`)",
        more="more chips",
    )
    plan = plan_memory(spec, requested, bytes_of, device)
    return replace(plan, limits=msgspec.structs.replace(plan.limits, depth=_DEPTH))
