"""Recognizes that the operating system killed the engine because memory ran out, and chooses a
smaller cache for the next engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import final

import msgspec

from tgi.backend import Agreement
from tgi.engine.messages import Start

__all__ = ["KillCounter", "count_kills", "with_smaller_cache"]

_ROOT = Path("/")
_NEAR_LIMIT = 0.95  # from this share of used memory on, a SIGKILL is attributed to a lack of memory
_SHRINK_DIVISOR = 2


@final
class KillCounter:
    """Observes how many processes the system kills because memory ran out. `count` returns the
    number since the system was started.
    """

    def __init__(self, count: Callable[[], int] | None = None) -> None:
        self._count = count_kills if count is None else count
        self._num_kills = self._count()

    def has_memory_run_out(self, memory_share: float) -> bool:
        """Whether memory was the reason for which an engine was killed. This is true if the system
        has counted a kill since the last call, or if `memory_share`, the share of the memory that
        was in use shortly before, was near 1. Programs other than the kernel kill processes too.
        """
        before, self._num_kills = self._num_kills, self._count()
        return self._num_kills > before or memory_share >= _NEAR_LIMIT


def count_kills(root: Path = _ROOT) -> int:
    """Return the number of processes that the system has killed because memory ran out. Processes
    of this control group and of the whole machine are counted, as far as the system reports them.
    """
    lines = [
        line.split()
        for group in _control_groups(root)
        for name in ("memory.events", "memory.oom_control")
        for line in _read(group / name).splitlines()
    ]
    lines += [line.split() for line in _read(root / "proc/vmstat").splitlines()]
    return sum(int(words[1]) for words in lines if words[:1] == ["oom_kill"])


def with_smaller_cache(start: Start, agreement: Agreement) -> Start | None:
    """Return a start message for an engine with half the cache of `agreement`. The maximum length
    of a sequence stays the same. Returns None if the cache already has the minimum size.
    """
    limits, cache, replace = agreement.limits, agreement.kv_cache, msgspec.structs.replace
    if cache.mode == "slots":
        num_slots = cache.num_sequence_slots // _SHRINK_DIVISOR
        if not num_slots:
            return None
        num_tokens, num_sequences = num_slots * cache.sequence_slot_tokens, num_slots
    else:
        num_tokens = max(cache.max_batch_total_tokens // _SHRINK_DIVISOR, limits.max_total_tokens)
        num_sequences = limits.max_sequences
        if num_tokens >= cache.max_batch_total_tokens:
            return None
    requested = replace(
        start.requested,
        max_total_tokens=limits.max_total_tokens,
        max_batch_total_tokens=num_tokens,
        max_batch_size=num_sequences,
    )
    return replace(start, requested=requested)


def _control_groups(root: Path) -> list[Path]:
    """Return the folders of the memory control group of this process. Inside a container, the
    folder is at the root of the file system of control groups.
    """
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            parent = base / "memory" if controllers else base
            found = parent / path.lstrip("/")
            if (found / "memory.stat").exists():
                return [found]
            if (parent / "memory.stat").exists():
                return [parent]
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
