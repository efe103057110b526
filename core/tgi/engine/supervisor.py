"""Starts the engine process and restarts it after a crash, with exponential backoff if the engine
crashes repeatedly.

`EngineProcess` kills a process that hangs, so a process that hangs is restarted like a crashed
process. If the system killed the process because memory ran out, the next process has a smaller
cache.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Protocol, final

from tgi.backend import Agreement
from tgi.engine.launch import ENGINE_COMMAND
from tgi.engine.memory_limit import KillCounter, with_smaller_cache
from tgi.engine.messages import EngineMessage, Progress, Start
from tgi.engine.process import EngineProcess, LivenessLimits
from tgi.engine.restart_policy import RestartPolicy
from tgi.errors import StartError

__all__ = ["EngineSupervisor", "Launch", "Supervised", "launch_engine"]

Launch = Callable[[Start, Callable[[Progress], None]], Awaitable[tuple[EngineProcess, Agreement]]]


class Supervised(Protocol):
    """The owner of the sequences. The supervisor calls these methods."""

    @property
    def has_progressed(self) -> bool:
        """Whether the current engine process has returned tokens."""

    def on_message(self, message: EngineMessage) -> None:
        """Process a message from the engine."""

    def on_ready(self) -> None:
        """Resume all sequences in the process that is ready now."""

    def on_end(self, cause: str, *, is_from_outside: bool) -> None:
        """Record that the process has ended. `is_from_outside` is True if another process ended
        it, so that no sequence is the cause.
        """

    def on_trip(self, reason: str) -> None:
        """End all sequences with an error, because the engine crashes repeatedly."""


def launch_engine(limits: LivenessLimits) -> Launch:
    """Return a function that starts an engine process with these limits."""

    async def launch(
        start: Start, on_progress: Callable[[Progress], None]
    ) -> tuple[EngineProcess, Agreement]:
        return await EngineProcess.start(start, on_progress, ENGINE_COMMAND, limits)

    return launch


@final
class EngineSupervisor:
    """Runs one engine at a time for `owner`. All methods must be called in the same event loop."""

    def __init__(
        self,
        owner: Supervised,
        start: Start,
        on_progress: Callable[[Progress], None],
        launch: Launch,
        kills: KillCounter,
    ) -> None:
        self._owner = owner
        self._start_message = start
        self._on_progress = on_progress
        self._launch = launch
        self._kills = kills
        self._policy = RestartPolicy()
        self._task: asyncio.Task[None] | None = None
        self.process: EngineProcess | None = None
        """The engine process that is ready, or None during a restart."""
        self.agreement: Agreement | None = None
        """The negotiated limits of the latest engine process that became ready."""
        self.failure = ""
        """The reason for which requests are rejected. The text is empty if requests are
        accepted.
        """
        self._retry_at = 0.0

    async def start(self) -> Agreement:
        """Start the first engine process and wait until it is ready. Raises `StartError` with the
        reason if it does not become ready.
        """
        process, agreement = await self._launch(self._start_message, self._on_progress)
        self._set_ready(process, agreement)
        self._task = asyncio.create_task(self._supervise(process), name="engine supervisor")
        return agreement

    async def close(self, *, at_once: bool) -> None:
        """Stop supervising and end the engine process. With `at_once` the process is killed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.process is not None:
            await self.process.close(at_once=at_once)
            self.process = None

    @property
    def seconds_to_retry(self) -> int:
        """The time until the next restart is tried, at least one second."""
        return max(1, math.ceil(self._retry_at - _now()))

    def _set_ready(self, process: EngineProcess, agreement: Agreement) -> None:
        self.process, self.agreement = process, agreement
        self.failure = ""
        self._policy.note_ready(_now())

    async def _supervise(self, process: EngineProcess) -> None:
        while True:
            # The messages are read in a separate task, so that a message does not resume this
            # method.
            await asyncio.create_task(process.run(self._owner.on_message), name="engine messages")
            self.process = None
            cause = await process.wait_end()
            has_progressed = self._owner.has_progressed
            is_from_outside = process.was_killed_from_outside
            if is_from_outside and self._kills.has_memory_run_out(process.memory_share):
                is_from_outside = False
                self._shrink_cache()
            self._owner.on_end(cause, is_from_outside=is_from_outside)
            pause = self._policy.note_crash(_now(), has_progressed)
            process = await self._restart(cause, pause)
            self._owner.on_ready()

    async def _restart(self, cause: str, pause: float) -> EngineProcess:
        """Start engine processes until one is ready."""
        while True:
            self._announce(cause, pause)
            await asyncio.sleep(pause)
            try:
                process, agreement = await self._launch(self._start_message, self._on_progress)
            except StartError as error:
                cause = f"the engine did not start again: {error}".rstrip(".")
                pause = self._policy.note_failed_start()
                continue
            self._set_ready(process, agreement)
            return process

    def _announce(self, cause: str, pause: float) -> None:
        policy = self._policy
        self._retry_at = _now() + pause
        if not policy.is_tripped:
            self._log(f"{cause}. The engine is restarted, and unfinished sequences are resumed.")
            return
        times = (
            f"{policy.num_crashes} times within {policy.window_seconds:.0f} s without returning a"
            " token"
        )
        self.failure = f"{cause}, {times}" if policy.num_crashes > 1 else cause
        self._log(
            f"{self.failure}. Requests are rejected, and the next restart is in {pause:.0f} s."
        )
        self._owner.on_trip(self.failure)

    def _shrink_cache(self) -> None:
        """Choose a smaller cache for the next process."""
        if self.agreement is None:
            return
        before = self.agreement.kv_cache.max_batch_total_tokens
        smaller = with_smaller_cache(self._start_message, self.agreement)
        if smaller is None:
            self._log(
                "the system killed the engine because memory ran out. Its cache of"
                f" {before} tokens already has the minimum size. Use a machine with more memory or"
                " a smaller model."
            )
            return
        self._start_message = smaller
        self._log(
            "the system killed the engine because memory ran out. It is restarted with a cache of"
            f" {smaller.requested.max_batch_total_tokens} tokens instead of {before}. Set"
            " `--max-batch-total-tokens` to this value or less."
        )

    def _log(self, text: str) -> None:
        self._on_progress(Progress("log", text=text))


def _now() -> float:
    return asyncio.get_running_loop().time()
