"""An open checkpoint: its tensors by the names that they have in an unquantized checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tgi.architectures.checkpoint import StoredTensor, stored_tensors
from tgi.checkpoints.detection import find_format
from tgi.checkpoints.gguf.container import is_gguf_path
from tgi.checkpoints.gguf.mapping import map_gguf
from tgi.checkpoints.quantized import QuantizedMatrix
from tgi.checkpoints.quantized_tensor import Array, CheckpointFormat, QuantizedTensor, Read
from tgi.checkpoints.safetensors_file import (
    MappedTensor,
    close_files,
    map_checkpoint,
    stored_array,
)

__all__ = ["Checkpoint", "LogicalTensors", "logical_tensors", "open_checkpoint", "read_headers"]


@final
@dataclass(frozen=True)
class LogicalTensors:
    """The tensors of a checkpoint by name, from the headers of the files alone. `plain` does not
    contain the parts of `quantized`. `format` is None if no tensor is quantized. This is also the
    case if merged or dequantized weights were saved with the config of the quantized model.
    """

    format: CheckpointFormat | None
    plain: Mapping[str, StoredTensor]
    quantized: Mapping[str, QuantizedTensor]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors. A quantized tensor is always [outputs, inputs] or [experts,
        outputs, inputs].
        """
        return {
            **{name: stored.shape for name, stored in self.plain.items()},
            **{name: tensor.shape for name, tensor in self.quantized.items()},
        }

    def num_bytes(self, name: str) -> int:
        """Size of a tensor in the files in bytes."""
        quantized = self.quantized.get(name)
        return self.plain[name].num_bytes if quantized is None else quantized.num_bytes


@final
@dataclass(frozen=True)
class Checkpoint:
    """The mapped files of a checkpoint. `tensors` are the logical tensors, and `mapped` are the
    stored tensors.
    """

    path: Path
    tensors: LogicalTensors
    mapped: Mapping[str, MappedTensor]

    def first_part(self, name: str) -> MappedTensor:
        """Return the stored tensor with this logical name, or its first part if it is quantized."""
        quantized = self.tensors.quantized.get(name)
        stored = name if quantized is None else next(iter(quantized.parts.values())).name
        return self.mapped[stored]

    def is_zero(self, name: str) -> bool:
        """Whether all values of a tensor are zero. The values are read. Returns False for a
        quantized tensor.
        """
        return name in self.tensors.plain and self.mapped[name].is_zero

    def decode(self, name: str, expert: int | None, rows: slice) -> QuantizedMatrix:
        """Decode rows of a quantized tensor. See `Decode`. Raises `ModelError` with the file and
        the tensor if the data does not fit the format.
        """
        tensor = self.tensors.quantized[name]

        def read(key: str) -> Array:
            return stored_array(self.mapped[tensor.parts[key].name])

        return tensor.decode(read, expert, rows)

    def release(self, name: str) -> None:
        """Release the memory of all pages that were read from the files that contain a tensor."""
        quantized = self.tensors.quantized.get(name)
        parts = [name] if quantized is None else [part.name for part in quantized.parts.values()]
        for file in {self.mapped[part].file for part in parts}:
            file.release()


def logical_tensors(
    form: CheckpointFormat | None, stored: Mapping[str, StoredTensor], read: Read
) -> LogicalTensors:
    """Find the quantized tensors among `stored`, whose data `read` returns by name. Raises
    `ModelError` with the tensor's name if a part is missing or has a wrong shape or dtype.
    """
    quantized = {} if form is None else form.tensors(stored, read)
    used = {part.name for tensor in quantized.values() for part in tensor.parts.values()}
    plain = {name: tensor for name, tensor in stored.items() if name not in used}
    return LogicalTensors(form if quantized else None, plain, quantized)


def read_headers(model_path: Path) -> LogicalTensors:
    """Read the tensors of a checkpoint, from its config, the headers of its files, and the small
    tensors that contain shapes. Raises `ModelError`.
    """
    if not is_gguf_path(model_path) and find_format(model_path) is None:
        return LogicalTensors(None, stored_tensors(model_path), {})
    with open_checkpoint(model_path) as checkpoint:
        return checkpoint.tensors


@contextmanager
def open_checkpoint(model_path: Path) -> Iterator[Checkpoint]:
    """Map all files of a checkpoint. Raises `ModelError`."""
    mapped = map_gguf(model_path) if is_gguf_path(model_path) else map_checkpoint(model_path)
    try:
        stored = {name: tensor.stored for name, tensor in mapped.items()}
        tensors = logical_tensors(
            find_format(model_path), stored, lambda name: stored_array(mapped[name])
        )
        yield Checkpoint(model_path, tensors, mapped)
    finally:
        close_files(mapped)
