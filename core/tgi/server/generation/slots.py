"""The concurrency slots of the server, and the share of each client.

`tgi.server.http.routing` determines the client of a request. A single client may use all
slots. If a client was rejected recently, the other clients leave it the slots that it asked for, up
to an equal share. No client can therefore keep all slots to itself while other clients wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from tgi.errors import OverloadedError

__all__ = ["ConcurrencyLimiter"]

_WAIT_SECONDS = 10.0  # after a rejection; clients send a rejected request again within this time
_MAX_WAITING = 256  # number of clients that are remembered after a rejection

_CLIENT_TEXT = (
    "This client already uses {held} of at most {limit} concurrency slots per client, and the"
    " request needs {count}. Wait for the end of earlier requests."
)


@final
@dataclass(frozen=True)
class _Rejection:
    """The last rejection of a client."""

    time: float
    num_wanted: int  # number of slots that the client would have held


@final
class ConcurrencyLimiter:
    """A semaphore that does not wait: if too few slots are free, or if the free slots belong to the
    share of other clients, the request is rejected. A limiter must be used from one event loop
    only.
    """

    def __init__(
        self,
        num_slots: int,
        max_per_client: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_per_client` limits the slots of each client even if no other client waits."""
        self._num_slots = num_slots
        self._num_free = num_slots
        self._max_per_client = num_slots if max_per_client is None else max_per_client
        self._clock = clock
        self._held: dict[str, int] = {}  # number of slots by client, without zeros
        self._rejections: dict[str, _Rejection] = {}  # by client, in the order of their times

    @property
    def num_free(self) -> int:
        """Number of free concurrency slots."""
        return self._num_free

    @contextmanager
    def hold(self, client: str, count: int = 1) -> Iterator[None]:
        """Occupy `count` slots until the block ends. `client` is the name of the client.

        Raises `OverloadedError` if fewer slots are free, or if the client may not use them.
        """
        self._check(client, count)
        self._num_free -= count
        self._held[client] = self._held.get(client, 0) + count
        try:
            yield
        finally:
            self._num_free += count
            self._held[client] -= count
            if not self._held[client]:
                del self._held[client]

    def _check(self, client: str, count: int) -> None:
        held, limit = self._held.get(client, 0), self._max_per_client
        if self._num_free < count or (self._rejections and not self._may_take(client, count)):
            self._note_rejection(client, held + count)
            raise OverloadedError
        if held + count > limit:
            raise OverloadedError(_CLIENT_TEXT.format(held=held, limit=limit, count=count))

    def _may_take(self, client: str, count: int) -> bool:
        """Whether enough slots remain for the other clients that were rejected recently."""
        self._forget_rejections()
        others = [(name, r) for name, r in self._rejections.items() if name != client]
        share = max(1, self._num_slots // (len(others) + 1))
        held = self._held.get(client, 0)
        if held + count <= share:
            return True
        num_kept = sum(
            max(0, min(rejection.num_wanted, share) - self._held.get(name, 0))
            for name, rejection in others
        )
        return self._num_free - count >= num_kept

    def _note_rejection(self, client: str, num_wanted: int) -> None:
        """Remember that the client waits, unless its request can never be accepted."""
        if num_wanted - self._held.get(client, 0) > min(self._num_slots, self._max_per_client):
            return
        self._rejections.pop(client, None)
        if len(self._rejections) >= _MAX_WAITING:
            del self._rejections[next(iter(self._rejections))]
        self._rejections[client] = _Rejection(self._clock(), min(num_wanted, self._max_per_client))

    def _forget_rejections(self) -> None:
        oldest_kept = self._clock() - _WAIT_SECONDS
        while self._rejections:
            client, rejection = next(iter(self._rejections.items()))
            if rejection.time >= oldest_kept:
                return
            del self._rejections[client]
