"""Maps a GGUF file to memory, as the tensors of a checkpoint of Hugging Face."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path
from typing import final

from tgi.checkpoints.converted_tensor import ConvertedTensor
from tgi.checkpoints.gguf.container import map_file, read_gguf
from tgi.checkpoints.gguf.format import stored_gguf_tensors
from tgi.checkpoints.gguf.tensors import gguf_tensors
from tgi.checkpoints.safetensors_file import MappedTensor, WeightFile, stored_array

__all__ = ["map_gguf"]


def map_gguf(path: Path) -> dict[str, MappedTensor]:
    """Map the file, and return its tensors by their names in a checkpoint of Hugging Face. Raises
    `ModelError` if the file is damaged, or if its architecture or the type of a tensor is unknown.
    """
    header = read_gguf(path)
    converted, stored = gguf_tensors(header).converted, stored_gguf_tensors(header)
    file = _MappedFile(path)
    return {
        name: _mapped_converted(file, converted[name])
        if name in converted
        else MappedTensor(file, tensor)
        for name, tensor in stored.items()
    }


@final
class _MappedFile:
    """A memory-mapped GGUF file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mapping = map_file(path)

    def release(self) -> None:
        """Release the memory of the pages that were read. Views of the mapping remain valid."""
        self.mapping.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap the file. No view of the mapping may be in use."""
        self.mapping.close()


@final
class _ConvertedFile:
    """The bytes of one converted tensor. They are created when they are first used, and deleted by
    `release`.
    """

    def __init__(self, file: WeightFile, tensor: ConvertedTensor) -> None:
        self.path = file.path
        self._source = MappedTensor(file, tensor.stored)
        self._convert = tensor.convert
        self._bytes: bytes | None = None

    @property
    def mapping(self) -> bytes:
        """The bytes of the converted tensor."""
        if self._bytes is None:
            self._bytes = self._convert(stored_array(self._source)).tobytes()
        return self._bytes

    def release(self) -> None:
        """Delete the bytes. Views of the bytes remain valid."""
        self._bytes = None
        self._source.file.release()

    def close(self) -> None:
        """Delete the bytes. The file is closed by the tensors that are not converted."""
        self._bytes = None


def _mapped_converted(file: WeightFile, tensor: ConvertedTensor) -> MappedTensor:
    return MappedTensor(_ConvertedFile(file, tensor), replace(tensor.stored, start=0))
