"""GGUF as a checkpoint format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from tgi.architectures.checkpoint import StoredTensor
from tgi.checkpoints.gguf.container import GgufHeader
from tgi.checkpoints.gguf.tensors import BLOCKS, gguf_tensors
from tgi.checkpoints.quantized_tensor import CheckpointFormat, QuantizedTensor, Read

__all__ = ["gguf_format", "stored_gguf_tensors"]


@final
@dataclass(frozen=True)
class _GgufFormat:
    """The quantized tensors of one GGUF file."""

    header: GgufHeader

    @property
    def name(self) -> str:
        """The name of the format."""
        return "gguf"

    @property
    def description(self) -> str:
        """The types of the quantized tensors, the most frequent type first."""
        kinds = Counter(
            tensor.block_type.name
            for tensor in self.header.tensors.values()
            if tensor.block_type.format is not None
        )
        return f"GGUF, {', '.join(kind for kind, _ in kinds.most_common())}"

    def tensors(
        self, stored: Mapping[str, StoredTensor], read: Read
    ) -> Mapping[str, QuantizedTensor]:
        """The quantized tensors. See `CheckpointFormat.tensors`."""
        del read
        quantized = gguf_tensors(self.header).quantized
        return {name: tensor for name, tensor in quantized.items() if name in stored}


def gguf_format(header: GgufHeader) -> CheckpointFormat | None:
    """Return the format of the file, or None if no tensor is quantized. Raises `ModelError` if the
    architecture is unknown or a tensor cannot be read.
    """
    return _GgufFormat(header) if gguf_tensors(header).quantized else None


def stored_gguf_tensors(header: GgufHeader) -> dict[str, StoredTensor]:
    """Return the stored tensors by their names in a checkpoint of Hugging Face. The blocks of a
    quantized tensor are bytes. Raises `ModelError` as `gguf_format` does.
    """
    tensors = gguf_tensors(header)
    converted = {name: tensor.stored for name, tensor in tensors.converted.items()}
    blocks = {name: tensor.parts[BLOCKS] for name, tensor in tensors.quantized.items()}
    return {**tensors.plain, **converted, **blocks}
