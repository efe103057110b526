"""Derives the dtype, the context and the number of cache blocks from the requested limits."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tgi.architectures.spec import GenericSpec, ModelSpec
from tgi.backend.agreement import RequestedLimits
from tgi.backend.errors import BackendError

__all__ = [
    "check_input",
    "compute_dtype",
    "format_bytes",
    "num_cache_blocks",
    "requested_context",
    "rounding_line",
]

_HALF_PRECISION = ("F16", "BF16", "float16", "bfloat16")
_UNKNOWN_CONTEXT = 4096  # tokens, if neither the user nor the model has a limit


def compute_dtype(
    requested: str | None,
    stored: str | None,
    allowed: Iterable[str],
    *,
    is_quantized: bool = False,
) -> str:
    """Return the requested dtype. If no dtype was requested, return bfloat16 for a 16-bit or
    quantized checkpoint, and float32 for any other checkpoint.

    `stored` is the dtype of the checkpoint, as spelled by torch or safetensors. Raises
    `BackendError` if the requested dtype is not among `allowed`.
    """
    if requested is None:
        has_16_bits = stored in _HALF_PRECISION
        return "bfloat16" if has_16_bits or is_quantized else "float32"
    names = sorted(allowed)
    if requested not in names:
        raise BackendError(f"`--dtype {requested}` is not one of {', '.join(names)}.")
    return requested


def rounding_line(requested: str | None, stored: str | None, dtype: str) -> str | None:
    """Return a log line if the weights are rounded to `dtype` and the user did not request that.
    The names of the dtypes are those of `compute_dtype`.
    """
    if requested is not None or stored not in ("F16", "float16") or dtype != "bfloat16":
        return None
    return (
        "The checkpoint's float16 values are rounded to bfloat16, which has 3 bits less precision."
        " `--dtype float32` keeps the values."
    )


def requested_context(spec: ModelSpec | GenericSpec, requested: RequestedLimits) -> int:
    """Return the maximum length of a sequence in tokens, without regard to memory. Raises
    `BackendError` if the requested length exceeds the number of the model's positions.
    """
    if requested.max_total_tokens and isinstance(spec, ModelSpec):
        _check_length(spec, requested.max_total_tokens)
    return (
        requested.max_total_tokens
        or requested.model_max_total_tokens
        or spec.max_positions
        or _UNKNOWN_CONTEXT
    )


def _check_length(spec: ModelSpec, length: int) -> None:
    positions = spec.embedding.positions
    if positions is not None and length > positions.num_positions:
        raise BackendError(
            f"`--max-total-tokens {length}` exceeds the {positions.num_positions} positions of this"
            " model.",
            f"Use at most {positions.num_positions}.",
        )
    if spec.index_limit is not None and length > spec.index_limit:
        raise BackendError(
            f"`--max-total-tokens {length}` exceeds {spec.index_limit}. In longer contexts, the"
            f" attention of {spec.model_type} chooses its keys with an index, which is not"
            " supported.",
            f"Use at most {spec.index_limit}.",
        )


def num_cache_blocks(
    requested: RequestedLimits,
    context: int,
    max_sequences: int,
    *,
    affordable: int,
    default: int,
    block_size: int,
) -> int:
    """Return the number of cache blocks. If a cache size was requested, the requested size is used.
    Raises `BackendError` if it needs more than `affordable` blocks.

    Otherwise the number is `default`, but not more than all sequences at full length can use. If
    `--max-total-tokens` was requested, the number is increased so that one sequence of this length
    fits, up to `affordable`.
    """
    if requested.max_batch_total_tokens is not None:
        wanted = math.ceil(requested.max_batch_total_tokens / block_size)
        if wanted > affordable:
            raise BackendError(
                f"`--max-batch-total-tokens {requested.max_batch_total_tokens}` needs {wanted}"
                f" cache blocks, but memory is left for {affordable} ({affordable * block_size}"
                " tokens).",
                f"Use at most {affordable * block_size}, or leave the option out.",
            )
        return wanted
    context_blocks = math.ceil(context / block_size)
    num_blocks = min(default, max_sequences * context_blocks)
    if requested.max_total_tokens is not None:
        num_blocks = max(num_blocks, min(context_blocks, affordable))
    return num_blocks


def check_input(requested: RequestedLimits, max_total_tokens: int) -> None:
    """Raise `BackendError` if a prompt of the requested length leaves no token for the output."""
    if requested.max_input_tokens is not None and requested.max_input_tokens >= max_total_tokens:
        raise BackendError(
            f"`--max-input-tokens {requested.max_input_tokens}` must be below the"
            f" {max_total_tokens} tokens of a whole sequence (`--max-total-tokens`, or what model"
            " and memory allow).",
            f"Use at most {max_total_tokens - 1}.",
        )


def format_bytes(num_bytes: int) -> str:
    """Format a size for messages, for example 512 MiB or 1.50 GiB."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
