"""The states of a worker. Every method except `health`, `control` and `close` is allowed in one
state.
"""

from __future__ import annotations

import enum
from typing import final

from tgi.backend.errors import WrongStateError

__all__ = ["WorkerState"]


@final
class WorkerState(enum.Enum):
    """The states in the order of `Worker`'s methods. `close` is allowed in every state. A worker
    that is ready may sleep and wake again.
    """

    CREATED = "created"
    LOADED = "loaded"
    AGREED = "agreed"
    READY = "ready"
    ASLEEP = "asleep"
    CLOSED = "closed"

    def require(self, needed: WorkerState, method: str) -> None:
        """Raise `WrongStateError` unless this is `needed`, the state in which `method` is
        allowed.
        """
        if self is not needed:
            raise WrongStateError(
                f"`{method}` needs a worker that is {needed.value}; this one is {self.value}."
            )
