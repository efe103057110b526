"""A floating-point weight of a checkpoint whose values are changed while they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.quantized_tensor import Array

__all__ = ["ConvertedTensor"]


@final
@dataclass(frozen=True)
class ConvertedTensor:
    """A floating-point tensor, for example with rows in another order than the model requires.

    `stored` has the name and the shape of the weight. `convert` returns the values of the whole
    tensor. The shape and the dtype stay the same. BF16 values are uint16.
    """

    stored: StoredTensor
    convert: Callable[[Array], Array]
