"""Closed-loop loads (users who each send one request after another) and open-loop loads (requests
at a rate that does not depend on the server).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from tgi.bench.http_exchange import Exchange, exchange
from tgi.bench.stream_result import StreamResult, read_stream
from tgi.bench.target import Target

__all__ = ["Load", "Progress", "run_load"]


@final
@dataclass(frozen=True)
class Load:
    """One load. Without `rate`, `num_users` requests run concurrently. With `rate`, requests are
    sent at this rate in requests per second, with exponentially distributed intervals.
    """

    num_users: int
    num_requests: int
    num_output_tokens: int
    rate: float | None = None
    truncate: int | None = None  # maximum number of prompt tokens; only for the native route
    limit_seconds: float = 600.0  # timeout of one request

    @property
    def label(self) -> str:
        """The number of users, for example `8`, or the rate, for example `2.5/s`."""
        return str(self.num_users) if self.rate is None else f"{self.rate:g}/s"


@final
@dataclass
class Progress:
    """The progress of a run. It is displayed during the run."""

    num_done: int = 0
    num_failed: int = 0
    num_events: int = 0
    began: float = field(default_factory=time.perf_counter)

    def count_events(self, number: int) -> None:
        """Add `number` received events."""
        self.num_events += number


@final
@dataclass(frozen=True)
class _Sent:
    received: Exchange | None
    due: float | None  # time at which an open-loop request was due
    error: str = ""


async def run_load(
    target: Target, load: Load, prompts: Sequence[str], seed: int, progress: Progress
) -> tuple[list[StreamResult], float]:
    """Send one request per prompt. Returns the results in any order, and the total time in seconds.

    The received bytes are parsed after the last stream has ended.
    """
    requests = deque(
        target.request(prompt, load.num_output_tokens, load.truncate) for prompt in prompts
    )
    progress.began = time.perf_counter()
    if load.rate is None:
        sent = await _run_users(target, load, requests, progress)
    else:
        sent = await _run_rate(target, load, requests, _gaps(load.rate, seed), progress)
    seconds = time.perf_counter() - progress.began
    return [_result(one, load.num_output_tokens) for one in sent], seconds


async def _run_users(
    target: Target, load: Load, requests: deque[bytes], progress: Progress
) -> list[_Sent]:
    sent = list[_Sent]()

    async def user() -> None:
        while requests:
            sent.append(await _send(target, load, requests.popleft(), None, progress))

    await asyncio.gather(*(user() for _ in range(load.num_users)))
    return sent


async def _run_rate(
    target: Target, load: Load, requests: deque[bytes], gaps: Iterator[float], progress: Progress
) -> list[_Sent]:
    """Send requests at a rate. The latency of a request includes the time since it was due, so that
    a stalled server affects all requests that were due meanwhile.
    """
    due = time.perf_counter()
    tasks = []
    for request in requests:
        due += next(gaps)
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(_send(target, load, request, due, progress)))
    return await asyncio.gather(*tasks)


def _gaps(rate: float, seed: int) -> Iterator[float]:
    """Intervals in seconds between independent arrivals."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    while True:
        yield rng.expovariate(rate)


async def _send(
    target: Target, load: Load, request: bytes, due: float | None, progress: Progress
) -> _Sent:
    try:
        received = await exchange(
            target.endpoint, request, load.limit_seconds, progress.count_events
        )
    except TimeoutError:
        progress.num_failed += 1
        return _Sent(None, due, f"not finished within {load.limit_seconds:g} s")
    except OSError as error:
        progress.num_failed += 1
        return _Sent(None, due, f"{type(error).__name__}: {error}")
    progress.num_done += 1
    return _Sent(received, due)


def _result(sent: _Sent, num_tokens: int) -> StreamResult:
    if sent.received is None:
        return StreamResult(error=sent.error)
    return read_stream(
        sent.received, sent.received.sent if sent.due is None else sent.due, num_tokens
    )
