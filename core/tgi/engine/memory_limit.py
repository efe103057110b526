"""Recognizes that the operating system killed the engine because memory ran out, and chooses a
smaller cache for the next engine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import final

import msgspec
import psutil  # type: ignore[import-untyped]

from tgi.backend import Agreement
from tgi.engine.messages import Start

__all__ = ["MemoryWatch", "count_kills", "used_share", "with_smaller_cache"]

_ROOT = Path("/")
_NEAR_LIMIT = 0.95  # the share of the memory in use above which a SIGKILL is attributed to it
_SHRINK_DIVISOR = 2


@final
class MemoryWatch:
    """Observes the memory of the machine and of the control group while an engine runs.

    `count` returns the number of processes that were killed because memory ran out. `share` returns
    the share of the memory that is in use.
    """

    def __init__(
        self,
        count: Callable[[], int] | None = None,
        share: Callable[[], float] | None = None,
    ) -> None:
        self._count = count_kills if count is None else count
        self._share = used_share if share is None else share
        self._num_kills = self._count()
        self._was_near_limit = False

    def sample(self) -> None:
        """Record whether memory is nearly exhausted now."""
        self._was_near_limit = self._share() >= _NEAR_LIMIT

    def has_run_out(self) -> bool:
        """Whether a process was killed since the last call because memory ran out, or memory was
        nearly exhausted at the last sample.
        """
        before, self._num_kills = self._num_kills, self._count()
        near, self._was_near_limit = self._was_near_limit, False
        return self._num_kills > before or near


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


def used_share(root: Path = _ROOT) -> float:
    """Return the share of the memory that is in use, of the machine or of the control group. The
    larger share counts. Memory that the system can reclaim does not count.
    """
    shares = [psutil.virtual_memory().percent / 100]
    names = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for group in _control_groups(root):
        for limit_name, usage_name, reclaimable_name in names:
            limit, usage = _number(group / limit_name), _number(group / usage_name)
            if limit and usage:
                statistics = (line.split() for line in _read(group / "memory.stat").splitlines())
                reclaimable = next(
                    (int(words[1]) for words in statistics if words[:1] == [reclaimable_name]), 0
                )
                shares.append((usage - reclaimable) / limit)
    return max(shares)


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


def _number(path: Path) -> int:
    """Return the number in a file, or 0 if the file is missing or contains no number."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
