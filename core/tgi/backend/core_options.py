"""How a backend rejects a value of a core option: the reason contains the value's meaning."""

from __future__ import annotations

from collections.abc import Iterable

from tgi.config.meanings import option_meaning
from tgi.config.quantization import QUANTIZATION_MEANINGS, QuantizationMeaning

__all__ = ["QUANTIZATION_MEANINGS", "QuantizationMeaning", "reject_option", "reject_quantize"]


def reject_option(backend: str, option: str, value: object, remedy: str) -> str:
    """The reason for `Support.reasons` if `backend` does not support this value of a core option.

    `option` is the name of a field of `EngineConfig`: `dtype`, `quantize`, `kv_cache_dtype` or
    `num_shard`. `remedy` is a clause without a full stop, for example "use `--num-shard 1`".
    """
    meaning = option_meaning(option, value)
    written = f"`--{option.replace('_', '-')} {value}`"
    if meaning is None:
        return f"{written} is not a value of this option; {remedy}"
    return f"{written} {meaning}, which the backend `{backend}` cannot do; {remedy}"


def reject_quantize(backend: str, value: str, supported: Iterable[str] = ()) -> str:
    """The reason for `Support.reasons` if `backend` supports only the values `supported` of
    `--quantize`, and this is another one.
    """
    names = ", ".join(supported)
    meaning = QUANTIZATION_MEANINGS.get(value)
    if not names:
        remedy = "leave it out"
    elif meaning is not None and meaning.reads_checkpoint:
        remedy = f"serve the unquantized checkpoint with one of {names}"
    else:
        remedy = f"use one of {names}"
    return reject_option(backend, "quantize", value, remedy)
