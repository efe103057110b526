"""The states of a worker. Each method except `health`, `control` and `close` is allowed in exactly
one state.
"""

from __future__ import annotations

import enum
from typing import final

from tgi.backend.errors import WrongStateError

__all__ = ["WorkerState"]


@final
class WorkerState(enum.Enum):
    """The states of a worker, in the order of the methods that lead to them. `close` is allowed in
    every state. The state changes from READY to ASLEEP and back with the requests `Sleep` and
    `Wake`.
    """

    CREATED = "created"
    LOADED = "loaded"
    AGREED = "agreed"
    READY = "ready"
    ASLEEP = "asleep"
    CLOSED = "closed"

    def require(self, needed: WorkerState, method: str) -> None:
        """Raise `WrongStateError` if the state is not `needed`. `method` is the name of the method
        that is allowed only in the state `needed`.
        """
        if self is not needed:
            raise WrongStateError(
                f"`{method}` needs a worker that is {needed.value}; this one is {self.value}."
            )
