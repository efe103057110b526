"""How many requests are worked on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from tgi.errors import OverloadedError

__all__ = ["ConcurrencyLimiter"]


@final
class ConcurrencyLimiter:
    """A semaphore that never waits: who finds no permit is refused. Belongs to one event loop."""

    def __init__(self, num_permits: int) -> None:
        self._num_free = num_permits

    @property
    def num_free(self) -> int:
        """Permits nobody holds."""
        return self._num_free

    @contextmanager
    def hold(self, count: int = 1) -> Iterator[None]:
        """Hold `count` permits, all or none. Raises `OverloadedError` if fewer are left."""
        if self._num_free < count:
            raise OverloadedError
        self._num_free -= count
        try:
            yield
        finally:
            self._num_free += count
