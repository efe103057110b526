"""The meaning of each value of the options that a backend may reject. The meaning is the same for
all backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tgi.config.options import OPTIONS
from tgi.config.quantization import QUANTIZATION_MEANINGS

__all__ = ["REJECTABLE_OPTIONS", "option_meaning"]

REJECTABLE_OPTIONS = ("dtype", "quantize", "kv_cache_dtype", "num_shard")
"""Names of the options of which a backend may support only some values."""

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {row.name: row.choices for row in OPTIONS}
)


def option_meaning(name: str, value: object) -> str | None:
    """Return the meaning of this value of a rejectable option, as a verb phrase with the server as
    its subject. Returns None if the option has no such value.
    """
    choices = _CHOICES[name]
    if choices and value not in choices:
        return None
    if name == "quantize":
        return QUANTIZATION_MEANINGS[str(value)].text
    if name == "dtype":
        return f"computes in {value}"
    if name == "kv_cache_dtype":
        scales = " with one scale per token and head" if value == "int8" else ""
        return f"stores the KV cache in {value}{scales}"
    if name == "num_shard":
        return f"splits the model over {value} devices"
    raise ValueError(f"a backend cannot reject the option `{name}`")
