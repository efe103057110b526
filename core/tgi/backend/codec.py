"""Encodes records as msgpack bytes and decodes them.

Rank processes, recorders and test suites use this module. It does not use pickle. An array is
encoded as (dtype, shape, little-endian bytes).
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

__all__ = ["decode", "encode"]

RecordT = TypeVar("RecordT")
_DTYPES = frozenset({"<i4", "<f4", "|u1", "<i8"})


def _encode_array(value: object) -> object:
    if isinstance(value, np.ndarray):
        if value.dtype.str not in _DTYPES:
            raise TypeError(f"arrays of dtype {value.dtype} cannot be encoded")
        return (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def _decode_array(kind: type, value: tuple[str, tuple[int, ...], bytes]) -> object:
    if kind is np.ndarray or getattr(kind, "__origin__", None) is np.ndarray:
        dtype, shape, data = value
        if dtype not in _DTYPES:
            raise msgspec.ValidationError(f"array dtype {dtype!r} is not one of {sorted(_DTYPES)}")
        return np.frombuffer(data, dtype).reshape(shape)
    raise TypeError(f"{kind} cannot be decoded")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_array)


@cache
def _decoder(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode_array)


def encode(record: object) -> bytes:
    """Encode one record. Raises TypeError if a value in the record cannot be encoded."""
    return _encoder.encode(record)


def decode(kind: type[RecordT], data: bytes) -> RecordT:
    """Decode a record of type `kind`. Raises `msgspec.ValidationError` if `data` contains a record
    of a different type.
    """
    return cast(RecordT, _decoder(cast(Hashable, kind)).decode(data))
