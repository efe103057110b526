"""Creates torch tensors from the tensors of mapped safetensors files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from tgi.checkpoints.safetensors_file import MappedTensor

__all__ = ["FLOAT_DTYPES", "tensor_view"]

FLOAT_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)
"""Stored dtypes from which a parameter can be read."""


def tensor_view(mapped: MappedTensor) -> Tensor:
    """Return the tensor as a view of the mapped file. The caller must not write to the view, and
    must release it before the file is closed.

    Raises `ModelError` if its dtype is not one of `FLOAT_DTYPES`.
    """
    stored, dtype = mapped.stored, mapped.dtype_of(FLOAT_DTYPES)
    if not stored.num_bytes:
        return torch.empty(stored.shape, dtype=dtype)
    with warnings.catch_warnings():
        # A private writable mapping would avoid the warning, but the system would count this
        # mapping as memory in use.
        warnings.filterwarnings(
            "ignore", message="The given buffer is not writable", category=UserWarning
        )
        flat = torch.frombuffer(
            mapped.file.mapping, dtype=torch.uint8, count=stored.num_bytes, offset=stored.start
        )
    # The format does not require that data is aligned to its element size.
    if stored.start % dtype.itemsize:
        flat = flat.clone()
    return flat.view(dtype).view(stored.shape)
