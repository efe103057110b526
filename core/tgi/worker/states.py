"""The states a worker goes through; every method but `health`, `control` and `close` belongs to one
of them.
"""

from __future__ import annotations

import enum
from typing import final

from tgi.backend.errors import WrongStateError

__all__ = ["WorkerState"]


@final
class WorkerState(enum.Enum):
    """In the order of `Worker`'s methods; `close` is legal in all of them. A worker that is ready
    may sleep and wake again.
    """

    CREATED = "created"
    LOADED = "loaded"
    AGREED = "agreed"
    READY = "ready"
    ASLEEP = "asleep"
    CLOSED = "closed"

    def require(self, needed: WorkerState, method: str) -> None:
        """Raise `WrongStateError` unless this is the state that `method` needs."""
        if self is not needed:
            raise WrongStateError(
                f"`{method}` needs a worker that is {needed.value}; this one is {self.value}."
            )
