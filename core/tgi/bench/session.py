"""A series of runs against one server."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import psutil  # type: ignore[import-untyped] # the package has no type annotations
import uvloop

from tgi.bench.load import Load, Progress, run_load
from tgi.bench.machine import CpuMeter, trees
from tgi.bench.prompts import PromptMaker
from tgi.bench.summary import RunSummary, summarize
from tgi.bench.target import NATIVE, Target

__all__ = ["Session", "Workload"]

_POLL_SECONDS = 0.5


@final
@dataclass(frozen=True)
class Workload:
    """The lengths of the requests in tokens. All prompts share a prefix of `num_shared_tokens`."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_shared_tokens: int = 0


@final
class Session:
    """Runs loads one after another. All prompts of a session are different. Sessions with different
    seeds have different prompts.
    """

    def __init__(
        self,
        target: Target,
        maker: PromptMaker,
        workload: Workload,
        seed: int,
        server_pids: Sequence[int] = (),
    ) -> None:
        """`server_pids` are the processes of the server, without their children."""
        self._target = target
        self._maker = maker
        self._workload = workload
        self._rng = random.Random(seed)  # noqa: S311 - not a secret
        self._own = [os.getpid(), *server_pids]
        self._shared = (
            maker.prompt(self._rng, workload.num_shared_tokens)
            if workload.num_shared_tokens
            else ""
        )

    def run(
        self,
        num_users: int,
        num_requests: int,
        rate: float | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> RunSummary:
        """Run one load. `watch` is called twice per second during the run."""
        workload, maker = self._workload, self._maker
        # If words are not single tokens, the native route truncates a longer prompt to the length.
        is_cut = (
            self._target.route == NATIVE and not maker.is_exact and not workload.num_shared_tokens
        )
        length = 2 * workload.num_prompt_tokens if is_cut else workload.num_prompt_tokens
        prompts = [maker.prompt(self._rng, length, self._shared) for _ in range(num_requests)]
        load = Load(
            num_users,
            num_requests,
            workload.num_output_tokens,
            rate,
            truncate=workload.num_prompt_tokens if is_cut else None,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run(load, prompts, watch))

    async def _run(
        self, load: Load, prompts: list[str], watch: Callable[[Progress], None] | None
    ) -> RunSummary:
        progress = Progress()
        watching = asyncio.create_task(_watch(progress, watch)) if watch is not None else None
        meter = CpuMeter(self._processes)
        try:
            results, seconds = await run_load(
                self._target, load, prompts, self._rng.getrandbits(32), progress
            )
            foreign_cpus = meter.foreign_cpus()
        finally:
            if watching is not None:
                watching.cancel()
        return summarize(load, results, foreign_cpus, seconds)

    def _processes(self) -> list[psutil.Process]:
        return trees(self._own)


async def _watch(progress: Progress, watch: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(_POLL_SECONDS)
        watch(progress)
