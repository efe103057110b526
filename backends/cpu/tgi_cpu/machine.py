"""Reads this machine's instruction sets, processors and memory from the operating system.

This module imports no framework.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

__all__ = [
    "free_memory",
    "has_bfloat16_products",
    "instruction_sets",
    "num_threads",
    "total_memory",
]

_CGROUPS = Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "i8mm",
    "bf16",
    "sve",
)
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def instruction_sets(cpuinfo: Path = _CPUINFO) -> tuple[str, ...]:
    """Return the supported vector instruction sets that the kernels or libraries use, under their
    Linux names.

    The result is empty if the system does not report instruction sets.
    """
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    named = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    flags = set(named.partition(":")[2].split())
    return tuple(flag for flag in _ISA_FLAGS if flag in flags)


def has_bfloat16_products(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor has instructions for products of bfloat16 numbers. Without them, torch
    computes in bfloat16 several times as slowly as in float32.

    The result is True if the system does not report instruction sets.
    """
    found = instruction_sets(cpuinfo)
    return not found or not _BFLOAT16_FLAGS.isdisjoint(found)


def num_threads(cgroups: Path = _CGROUPS) -> int:
    """Return the number of compute threads.

    The number is `OMP_NUM_THREADS` if this variable is a positive number. Otherwise it is the
    number of processors that this process may use.
    """
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested):
        return int(requested)
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([allowed, *(math.ceil(quota) for quota in _processor_quotas(cgroups))]))


def total_memory(cgroups: Path = _CGROUPS) -> int:
    """Return the total memory of the machine in bytes, or the container's limit if the limit is
    lower.
    """
    return min(
        [int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_limits(cgroups))]
    )


def free_memory(cgroups: Path = _CGROUPS) -> int:
    """Return the number of bytes that this process can allocate before the machine or its container
    runs out of memory.
    """
    spare = (limit - used for limit, used in _memory_limits(cgroups))
    return max(0, min([int(psutil.virtual_memory().available), *spare]))


def _own_cgroups(root: Path) -> Iterator[Path]:
    """Return the folders of this process's version 2 cgroup and of all parent cgroups."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    name = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    group = root / name.strip("/")
    while group.is_relative_to(root):
        yield group
        group = group.parent


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Return the limit and usage in bytes of every cgroup that limits memory.

    File pages that the kernel can drop are not included in the usage.
    """
    for group in _own_cgroups(root):
        try:
            limit = (group / "memory.max").read_text().strip()
            if limit == "max":
                continue
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        yield int(limit), used - int(stat.get("inactive_file", 0))


def _processor_quotas(root: Path) -> Iterator[float]:
    """Return the processor quota of every cgroup that has a quota, as a number of processors."""
    for group in _own_cgroups(root):
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except OSError:
            continue
        if quota != "max":
            yield int(quota) / int(period)
