"""Writes safetensors files tensor by tensor, without collecting the data in memory.
Format: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, final

from tgi.architectures.checkpoint import INDEX_NAME
from tgi.checkpoints.quantized_tensor import Array

__all__ = ["SafetensorsWriter"]

_LENGTH_BYTES = 8
_ALIGNMENT = 8  # the library aligns the data to this number of bytes


@final
class SafetensorsWriter:
    """Writes the tensors of a checkpoint to one or more files in `folder`.

    A new file begins when the data of a file would exceed `max_file_bytes`. `max_header_bytes` is
    the space that is reserved for the header of each file. The header is written when the file is
    complete, and spaces fill the rest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_file_bytes: int,
        max_header_bytes: int,
        metadata: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._data_start = _LENGTH_BYTES + -(-max_header_bytes // _ALIGNMENT) * _ALIGNMENT
        self._metadata = dict(metadata)
        self._entries: list[dict[str, Any]] = []  # one header per file
        self._file: BinaryIO | None = None
        self._file_bytes = 0

    def add(self, name: str, dtype: str, shape: tuple[int, ...], data: Array) -> None:
        """Write one tensor. `dtype` is the name of the dtype in the format, for example I32, and
        `data` contains the bytes of the tensor in any shape.
        """
        assert all(name not in header for header in self._entries), f"{name} is written twice"
        if self._file is None or (
            self._file_bytes and self._file_bytes + data.nbytes > self._max_file_bytes
        ):
            self._finish_file()
            self._file = self._path(len(self._entries)).open("wb")
            self._file.seek(self._data_start)
            self._entries.append({})
            self._file_bytes = 0
        end = self._file_bytes + data.nbytes
        offsets = [self._file_bytes, end]
        self._entries[-1][name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data.tofile(self._file)
        self._file_bytes = end

    def finish(self) -> None:
        """Write the last header, give the files their final names and write the index if there are
        several files.
        """
        self._finish_file()
        count = len(self._entries)
        names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
        if count == 1:
            names = ["model.safetensors"]
        for number, name in enumerate(names):
            self._path(number).rename(self._folder / name)
        if count > 1:
            index = {
                "metadata": {"total_size": sum(map(_data_bytes, self._entries))},
                "weight_map": {
                    tensor: name
                    for name, header in zip(names, self._entries, strict=True)
                    for tensor in header
                },
            }
            (self._folder / INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")

    def close(self) -> None:
        """Close the open file. An incomplete file is not removed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _finish_file(self) -> None:
        if self._file is None:
            return
        header = {"__metadata__": self._metadata, **self._entries[-1]}
        text = json.dumps(header, separators=(",", ":")).encode()
        space = self._data_start - _LENGTH_BYTES
        assert len(text) <= space, f"a header of {len(text)} bytes, but {space} are reserved"
        self._file.seek(0)
        self._file.write(space.to_bytes(_LENGTH_BYTES, "little") + text.ljust(space))
        self.close()

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number}.safetensors"


def _data_bytes(header: Mapping[str, Any]) -> int:
    return max(int(entry["data_offsets"][1]) for entry in header.values())
