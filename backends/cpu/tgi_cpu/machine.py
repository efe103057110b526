"""What this machine offers: instruction sets, threads, memory. Reads the operating system; imports
no framework.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped] # it ships no types

__all__ = ["free_memory", "instruction_sets", "num_threads", "total_memory"]

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


def instruction_sets(cpuinfo: Path = _CPUINFO) -> tuple[str, ...]:
    """The vector instruction sets that matter here, as Linux names them; empty where the system
    does not tell.
    """
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    named = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    flags = set(named.partition(":")[2].split())
    return tuple(flag for flag in _ISA_FLAGS if flag in flags)


def num_threads(cgroups: Path = _CGROUPS) -> int:
    """Threads to compute with: `OMP_NUM_THREADS` where it is a number, else the processors this
    process may use.
    """
    requested = os.environ.get("OMP_NUM_THREADS", "")
    if requested.isdecimal() and int(requested):
        return int(requested)
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([allowed, *(math.ceil(quota) for quota in _processor_quotas(cgroups))]))


def total_memory(cgroups: Path = _CGROUPS) -> int:
    """Bytes of memory that processes here may take together: the machine's, or the container's
    where that is less.
    """
    return min(
        [int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_limits(cgroups))]
    )


def free_memory(cgroups: Path = _CGROUPS) -> int:
    """Bytes this process may still take before the machine or a container around it runs out."""
    spare = (limit - used for limit, used in _memory_limits(cgroups))
    return max(0, min([int(psutil.virtual_memory().available), *spare]))


def _own_cgroups(root: Path) -> Iterator[Path]:
    """The cgroup (version 2) of this process and those around it."""
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
    """Limit and use in bytes of every cgroup that limits memory. File pages the kernel can drop do
    not count as use.
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
    """Processors' worth of time that every cgroup with a quota grants."""
    for group in _own_cgroups(root):
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except OSError:
            continue
        if quota != "max":
            yield int(quota) / int(period)
