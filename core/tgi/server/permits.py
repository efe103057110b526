"""How many requests are worked on at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from tgi.errors import OverloadedError

__all__ = ["Permits"]


@final
class Permits:
    """A semaphore that never waits: who finds no permit is refused. Belongs to one event loop."""

    def __init__(self, num_permits: int) -> None:
        self._num_free = num_permits

    @property
    def num_free(self) -> int:
        """Permits nobody holds."""
        return self._num_free

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a permit. Raises `OverloadedError` if none is left."""
        if not self._num_free:
            raise OverloadedError
        self._num_free -= 1
        try:
            yield
        finally:
            self._num_free += 1
