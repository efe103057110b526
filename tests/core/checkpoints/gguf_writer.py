"""Writes GGUF files for tests, from the description of the format."""

import struct
from dataclasses import dataclass, field

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ4_NL": 20,
    "BF16": 30,
}


def string(text):
    """A string with its length."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """A value of the metadata with its type."""
    match item:
        case bool():
            return struct.pack("<I?", BOOL, item)
        case int():
            return struct.pack("<II", UINT32, item)
        case float():
            return struct.pack("<If", FLOAT32, item)
        case str():
            return struct.pack("<I", STRING) + string(item)
        case bytes():
            return item  # the type and the value, for values that are damaged on purpose
    head = struct.pack("<I", ARRAY)
    if all(isinstance(part, str) for part in item):
        return head + struct.pack("<IQ", STRING, len(item)) + b"".join(map(string, item))
    kind, code = (FLOAT32, "f") if isinstance(item[0], float) else (INT32, "i")
    return head + struct.pack(f"<IQ{len(item)}{code}", kind, len(item), *item)


@dataclass
class Tensor:
    """A tensor of a file. `shape` has the order of numpy. `start` replaces the right offset."""

    kind: str
    shape: tuple
    data: bytes
    start: int | None = None


@dataclass
class GgufFile:
    """The content of a file."""

    keys: dict
    tensors: dict = field(default_factory=dict)
    version: int = 3
    alignment: int = 32
    magic: bytes = b"GGUF"
    num_tensors: int | None = None
    num_keys: int | None = None

    def write(self, path):
        """Write the file, and return its path."""
        path.write_bytes(self.header() + self.data())
        return path

    def header(self):
        """The bytes before the data of the tensors."""
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.keys) if self.num_keys is None else self.num_keys
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_keys)
        head += b"".join(string(key) + value(item) for key, item in self.keys.items())
        start = 0
        for name, tensor in self.tensors.items():
            sizes = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
            place = start if tensor.start is None else tensor.start
            kind = TYPES.get(tensor.kind, tensor.kind)
            head += string(name) + struct.pack("<I", len(tensor.shape)) + sizes
            head += struct.pack("<IQ", kind, place)
            start += len(self._padded(tensor.data))
        return self._padded(head)

    def data(self):
        """The data of the tensors."""
        return b"".join(self._padded(tensor.data) for tensor in self.tensors.values())

    def _padded(self, data):
        return data + bytes(-len(data) % self.alignment)
