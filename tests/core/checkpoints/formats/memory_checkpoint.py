"""A checkpoint in memory: stored tensors by name, as the reader of safetensors files returns
them.
"""

from dataclasses import dataclass, replace

import numpy as np

from tgi.architectures.checkpoint import DTYPE_BYTES, StoredTensor, read_header

NUMPY_NAMES = {
    "uint16": "U16",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
}
NUMPY_DTYPES = {name: np.dtype(dtype) for dtype, name in NUMPY_NAMES.items()}
RAW_DTYPES = {"BF16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F8_E8M0": np.uint8}


@dataclass(frozen=True)
class MemoryCheckpoint:
    arrays: dict
    dtypes: dict

    @classmethod
    def of(cls, arrays, dtypes=None):
        """`dtypes` contains the stored dtype of arrays with raw bits, such as BF16 in uint16."""
        names = {name: NUMPY_NAMES[array.dtype.name] for name, array in arrays.items()}
        return cls(dict(arrays), {**names, **(dtypes or {})})

    @classmethod
    def of_file(cls, path):
        arrays, dtypes = {}, {}
        data = path.read_bytes()
        for name, stored in read_header(path).items():
            dtype = RAW_DTYPES.get(stored.dtype) or NUMPY_DTYPES[stored.dtype]
            count = stored.num_bytes // np.dtype(dtype).itemsize
            values = np.frombuffer(data, dtype, count, stored.start)
            arrays[name] = values.reshape(stored.shape)
            dtypes[name] = stored.dtype
        return cls(arrays, dtypes)

    @property
    def stored(self):
        return {
            name: StoredTensor(
                name,
                self.dtypes[name],
                array.shape,
                0,
                array.size * DTYPE_BYTES[self.dtypes[name]],
            )
            for name, array in self.arrays.items()
        }

    def changed(self, **changes):
        """Return a checkpoint with other arrays. None removes an array."""
        arrays = {**self.arrays, **changes}
        return replace(self, arrays={n: a for n, a in arrays.items() if a is not None})

    def with_dtype(self, name, dtype):
        return replace(self, dtypes={**self.dtypes, name: dtype})

    def tensors(self, form):
        return form.tensors(self.stored, self.arrays.__getitem__)

    def decode(self, tensor, expert=None, rows=None):
        """Decode some rows, or all rows."""
        return tensor.decode(
            lambda part: self.arrays[tensor.parts[part].name],
            expert,
            rows or slice(0, tensor.shape[-2]),
        )
