"""Creates numpy arrays from the tensors of mapped safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tgi.checkpoints.safetensors_file import MappedTensor

__all__ = ["tensor_view"]

_DTYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
)


def tensor_view(mapped: MappedTensor) -> npt.NDArray[Any]:
    """Return the tensor in its stored dtype, as a view of the mapped file. Raises `ModelError` if
    the dtype is not a floating-point dtype.
    """
    stored, dtype = mapped.stored, mapped.dtype_of(_DTYPES)
    data = np.frombuffer(mapped.file.mapping, np.uint8, stored.num_bytes, stored.start)
    return data.view(dtype).reshape(stored.shape)
