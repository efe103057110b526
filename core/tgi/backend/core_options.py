"""Functions with which a backend rejects a value of a core option. The reason contains the meaning
of the value.
"""

from __future__ import annotations

from collections.abc import Collection

from tgi.backend.agreement import EngineConfig
from tgi.config.meanings import option_meaning
from tgi.config.quantization import QUANTIZATION_MEANINGS, QuantizationMeaning

__all__ = ["QUANTIZATION_MEANINGS", "QuantizationMeaning", "reject_option", "rejected_options"]


def rejected_options(
    config: EngineConfig,
    backend: str,
    *,
    dtypes: Collection[str] = (),
    quantize: Collection[str] = (),
    kv_cache_dtypes: Collection[str] = (),
    max_shards: int | None = 1,
) -> tuple[str, ...]:
    """Return one reason for `Support.reasons` per core option in `config` that `backend` does not
    support. `backend` is the name of the backend. Returns an empty tuple if all are supported.

    `dtypes`, `quantize` and `kv_cache_dtypes` are the supported values of `--dtype`, `--quantize`
    and `--kv-cache-dtype`. `max_shards` is the maximum of `--num-shard`. If it is None, the backend
    checks `--num-shard` itself.
    """
    rejected = []
    if config.dtype is not None and config.dtype not in dtypes:
        rejected.append(reject_option(backend, "dtype", config.dtype, _use(dtypes)))
    if config.quantize is not None and config.quantize not in quantize:
        meaning, remedy = QUANTIZATION_MEANINGS.get(config.quantize), _use(quantize)
        if quantize and meaning is not None and meaning.reads_checkpoint:
            remedy = f"serve the unquantized checkpoint and {remedy}"
        rejected.append(reject_option(backend, "quantize", config.quantize, remedy))
    if config.kv_cache_dtype is not None and config.kv_cache_dtype not in kv_cache_dtypes:
        remedy = _use(kv_cache_dtypes)
        rejected.append(reject_option(backend, "kv_cache_dtype", config.kv_cache_dtype, remedy))
    if max_shards is not None and config.num_shard > max_shards:
        remedy = f"the maximum is {max_shards}"
        rejected.append(reject_option(backend, "num_shard", config.num_shard, remedy))
    return tuple(rejected)


def reject_option(backend: str, option: str, value: object, remedy: str) -> str:
    """Return the reason for `Support.reasons` if `backend` does not support `value` of a core
    option.

    `option` is the name of a field of `EngineConfig`: `dtype`, `quantize`, `kv_cache_dtype` or
    `num_shard`. `remedy` is a clause without a full stop, for example "use float32".
    """
    meaning = option_meaning(option, value)
    written = f"`--{option.replace('_', '-')} {value}`"
    if meaning is None:
        return f"{written} is not a value of this option; {remedy}"
    return f"{written} {meaning}, which the backend `{backend}` cannot do; {remedy}"


def _use(values: Collection[str]) -> str:
    if not values:
        return "leave it out"
    return f"use {'one of ' if len(values) > 1 else ''}{', '.join(values)}"
