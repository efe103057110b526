"""Measure the CPU time of other processes during a run, because it distorts the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import final
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped] # the package has no type annotations

__all__ = ["CpuMeter", "listeners", "trees"]

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@final
class CpuMeter:
    """Measures the CPU time of all processes that are not in `own()`, since its creation. `own` is
    called again for each measurement.
    """

    def __init__(self, own: Callable[[], Iterable[psutil.Process]]) -> None:
        self._own = own
        self._busy, self._used, self._began = (
            _busy_seconds(),
            _used_seconds(own()),
            time.perf_counter(),
        )

    def foreign_cpus(self) -> float:
        """The average number of CPU cores that other processes used."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        foreign = (_busy_seconds() - self._busy) - (_used_seconds(self._own()) - self._used)
        return max(0.0, foreign) / elapsed


def trees(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes and all their descendants, without duplicates. Ended processes are left out."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            root = psutil.Process(pid)
            found |= {process.pid: process for process in (root, *root.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def listeners(url: str) -> list[int]:
    """The processes that listen on the port of `url`. The result is empty if the host is another
    machine, or if the system does not allow the query.
    """
    parts = urlsplit(url)
    port = parts.port
    if parts.hostname not in _LOCAL_HOSTS:
        return []
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return []
    return [
        c.pid
        for c in connections
        if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port and c.pid
    ]


def _busy_seconds() -> float:
    """CPU time of the whole machine in seconds, without idle and I/O wait time."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def _used_seconds(processes: Iterable[psutil.Process]) -> float:
    """CPU time of the processes and of their ended children in seconds."""
    seconds = 0.0
    for process in processes:
        try:
            seconds += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return seconds
