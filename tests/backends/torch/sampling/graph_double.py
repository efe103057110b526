"""Replacements for a graph of a device and for a device without a host read, on the CPU."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose result the host reads, or whose output shape depends on values.
SYNCHRONOUS = {
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave.Tensor",
    "unique_consecutive",
    "unique_dim",
}
SORTS = {"sort", "argsort", "msort"}
BOOLEAN = (torch.bool, torch.uint8)


class SynchronizationError(Exception):
    """The code under test performs an operation that a graph cannot contain."""


def check(function, args, kwargs):
    """Raise `SynchronizationError` if an operation synchronizes the device with the host."""
    name = str(function).removeprefix("aten.")
    if name in SYNCHRONOUS or name.partition(".")[0] in SYNCHRONOUS | SORTS:
        raise SynchronizationError(f"{name} is not possible in a graph")
    is_index = name.startswith(("index.", "index_put", "_index_put"))
    if is_index and any(index is not None and index.dtype in BOOLEAN for index in args[1]):
        raise SynchronizationError(f"{name} with a boolean index is not possible in a graph")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    # Other operations accept a number of Python as a scalar on the host.
    is_copy = name.startswith(("_to_copy", "copy_"))
    devices = {tensor.device.type for tensor in tensors if tensor.dim() or is_copy}
    if tensors and kwargs.get("device") is not None:
        devices.add(torch.device(kwargs["device"]).type)
    if len(devices) > 1:
        raise SynchronizationError(f"{name} copies between devices: {sorted(devices)}")


class NoSynchronization(TorchDispatchMode):
    """Raises `SynchronizationError` in operations that synchronize, and counts the operations."""

    def __init__(self):
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        check(func, args, kwargs)
        self.num_operations += 1
        return func(*args, **kwargs)


class GraphDouble(TorchDispatchMode):
    """Records the operations that run inside of the mode. `replay` repeats the operations on the
    same tensors. Python code does not run again, as in a graph of a device.
    """

    def __init__(self):
        super().__init__()
        self._operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        check(func, args, kwargs)
        result = func(*args, **kwargs)
        self._operations.append((func, args, kwargs, result))
        return result

    def replay(self):
        for func, args, kwargs, recorded in self._operations:
            results = func(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(results), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
