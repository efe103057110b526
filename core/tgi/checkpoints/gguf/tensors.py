"""Gives the tensors of a GGUF file the names, shapes and values that they have in a checkpoint of
Hugging Face.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures.checkpoint import StoredTensor
from tgi.architectures.file_reader import shown
from tgi.checkpoints.converted_tensor import ConvertedTensor
from tgi.checkpoints.gguf.block_types import BLOCK_TYPES, BlockType, decode_rows
from tgi.checkpoints.gguf.config import config_of
from tgi.checkpoints.gguf.container import GgufHeader, GgufTensor
from tgi.checkpoints.gguf.families import family_of
from tgi.checkpoints.quantized import QuantizedMatrix
from tgi.checkpoints.quantized_tensor import Array, QuantizedTensor, Read
from tgi.errors import ModelError

__all__ = ["BLOCKS", "GgufTensors", "gguf_tensors"]

BLOCKS = "blocks"
"""The role of the only stored tensor of a quantized weight: bytes [rows, bytes of a row]."""

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")
_UNUSED = re.compile(r"rope_freqs\.weight|rope_factors_.*|blk\.\d+\.attn_rot_embd\.weight")
"""Tensors whose content is in the config: see `config_of`."""

_BYTES = "U8"
_MATRIX_AXES = 2


@final
@dataclass(frozen=True)
class GgufTensors:
    """The tensors of a file by their names in a checkpoint of Hugging Face. Each tensor is in one
    of the three mappings. `plain` are views of the file, `converted` are floating-point tensors
    that are changed while they are read.
    """

    plain: MappingProxyType[str, StoredTensor]
    converted: MappingProxyType[str, ConvertedTensor]
    quantized: MappingProxyType[str, QuantizedTensor]


@final
@dataclass(frozen=True)
class _Named:
    """A tensor, or the part of one expert, and its name in a checkpoint of Hugging Face."""

    name: str
    tensor: GgufTensor
    head_dim: int | None = None  # if the rows of each head are interleaved
    is_shifted: bool = False  # whether 1 was added to the values


@lru_cache(maxsize=2)
def gguf_tensors(header: GgufHeader) -> GgufTensors:
    """Convert the description of all tensors. A tensor with an unknown name keeps its name.

    Raises `ModelError` if the architecture is unknown, or with the name of a tensor whose type
    cannot be read.
    """
    plain: dict[str, StoredTensor] = {}
    converted: dict[str, ConvertedTensor] = {}
    quantized: dict[str, QuantizedTensor] = {}
    for named in _named_tensors(header):
        block_type = named.tensor.block_type
        if block_type.format is not None:
            quantized[named.name] = _quantized(header, named)
            continue
        if block_type.float_dtype is None:
            raise _unreadable(header, named.tensor)
        stored = _stored(named, block_type.float_dtype)
        if named.is_shifted:
            converted[named.name] = ConvertedTensor(stored, _unshifted)
        elif named.head_dim is not None:
            order = partial(_in_order, head_dim=named.head_dim)
            converted[named.name] = ConvertedTensor(stored, order)
        else:
            plain[named.name] = stored
    return GgufTensors(
        MappingProxyType(plain), MappingProxyType(converted), MappingProxyType(quantized)
    )


def _named_tensors(header: GgufHeader) -> Iterator[_Named]:
    family, head_dim = family_of(header), config_of(header)["head_dim"]
    for tensor in header.tensors.values():
        if _UNUSED.fullmatch(tensor.name):
            continue
        found = _IN_LAYER.fullmatch(tensor.name)
        module = None if found is None else family.modules.get(found[2])
        if found is None or module is None:
            name = _OUTER.get(tensor.name, tensor.name)
        else:
            name = f"model.layers.{found[1]}.{module}.{found[3]}"
        is_rotated = found is not None and found[2] in {"attn_q", "attn_k"}
        named = _Named(
            name,
            tensor,
            head_dim if family.is_interleaved and is_rotated else None,
            family.has_shifted_norms and name.endswith("norm.weight"),
        )
        yield from _experts(header, named) if "{expert}" in name else (named,)


def _experts(header: GgufHeader, named: _Named) -> Iterator[_Named]:
    """Yield the parts of the experts of a tensor [experts, outputs, inputs]."""
    whole = named.tensor
    if len(whole.shape) != _MATRIX_AXES + 1:
        raise ModelError(
            f"{shown(header.path)}: tensor `{shown(whole.name)}` has the shape"
            f" {list(whole.shape)}, but the experts of a layer need three axes.",
            "Convert the original model again with a current version of llama.cpp.",
        )
    num_experts, outputs, _ = whole.shape
    for expert in range(num_experts):
        start = whole.start + expert * outputs * whole.row_bytes
        part = GgufTensor(whole.name, whole.block_type, whole.shape[1:], start)
        yield _Named(named.name.replace("{expert}", str(expert)), part)


def _stored(named: _Named, dtype: str) -> StoredTensor:
    tensor = named.tensor
    return StoredTensor(named.name, dtype, tensor.shape, tensor.start, tensor.num_bytes)


def _quantized(header: GgufHeader, named: _Named) -> QuantizedTensor:
    tensor, block_type = named.tensor, named.tensor.block_type
    assert block_type.format is not None
    if named.is_shifted or len(tensor.shape) != _MATRIX_AXES:
        raise _unreadable(header, tensor)
    blocks = StoredTensor(
        named.name,
        _BYTES,
        (tensor.shape[0], tensor.row_bytes),
        tensor.start,
        tensor.num_bytes,
    )
    return QuantizedTensor(
        named.name,
        tensor.shape,
        block_type.format,
        {BLOCKS: blocks},
        partial(_decode, block_type, named.head_dim),
        named.head_dim or 1,
    )


def _decode(
    block_type: BlockType, head_dim: int | None, read: Read, expert: int | None, rows: slice
) -> QuantizedMatrix:
    """Convert rows to the canonical form. See `tgi.checkpoints.quantized_tensor.Decode`."""
    assert expert is None, "each expert is a separate tensor"
    data: npt.NDArray[np.uint8] = read(BLOCKS)[rows]
    return decode_rows(block_type, data if head_dim is None else _in_order(data, head_dim))


def _in_order(rows: Array, head_dim: int) -> Array:
    """Reorder the rows of whole heads. Row `2 * i` of a head becomes row `i`, and row `2 * i + 1`
    becomes row `i + head_dim / 2`.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _unshifted(values: Array) -> Array:
    return values - np.float32(1)


def _unreadable(header: GgufHeader, tensor: GgufTensor) -> ModelError:
    known = ", ".join(kind.name for kind in BLOCK_TYPES.values() if kind.float_dtype or kind.format)
    return ModelError(
        f"{shown(header.path)}: tensor `{shown(tensor.name)}` of shape {list(tensor.shape)} has the"
        f" type {tensor.block_type.name}, which cannot be read. Types that can be read are {known}."
        " Only matrices may be quantized.",
        "Download another file of this model, for example with Q4_K_M or Q8_0 in its name.",
    )
