"""Checks that the server recovers when the engine process is killed in any phase or hangs.

The checks use the core's own supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import final

import psutil  # type: ignore[import-untyped]

from tgi.backend import BackendError, SamplingParams
from tgi.engine.client import EngineClient
from tgi.engine.messages import Progress, Start
from tgi.engine.process import LivenessLimits
from tgi.engine.stream import OutputQueue, SequenceStream
from tgi.scheduler import Request, SchedulerConfig
from tgi.testing.conformance.backend_under_test import REQUESTED, BackendUnderTest, prompt_of
from tgi.testing.conformance.check import Check
from tgi.testing.conformance.expectations import check_sequence
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.require import CheckFailedError, not_applicable, require

__all__ = ["CHECKS"]

_PHASES = ("load", "warmup")  # these phases may end before they can be interrupted
_TIMEOUT_SECONDS = 300.0  # of a startup or a sequence, so that no check waits forever
_FREEZE_SECONDS = 3.0
_POLL_SECONDS = 0.02
_GONE_SECONDS = 5.0  # time after which no process of a killed engine may be left
_NUM_TOKENS = 40
_ENGINE_MODULE = "tgi.engine"


def _killed(under_test: BackendUnderTest) -> None:
    """If the engine is killed during startup, the startup fails with a reason. If it is killed
    later, a stream continues after a restart.

    No process is left.
    """
    _require_installed(under_test)
    killer = _Killer()
    try:
        asyncio.run(_start_and_kill(under_test, killer, ""))
    except BackendError as error:
        require(
            "SIGKILL" in str(error), f"the error after a kill does not mention SIGKILL: {error}"
        )
    else:
        raise CheckFailedError("the engine was killed during startup, but startup did not fail")
    for phase in _PHASES:
        with contextlib.suppress(BackendError):
            asyncio.run(_start_and_kill(under_test, killer, phase))
    asyncio.run(_interrupted(under_test, lambda _: killer.kill(), _TIMEOUT_SECONDS))
    _, alive = psutil.wait_procs(killer.descendants, timeout=_GONE_SECONDS)
    require(
        not alive,
        f"an engine that was killed left processes: {[process.name() for process in alive]}",
    )


def _hanging(under_test: BackendUnderTest) -> None:
    """A suspended engine process sends no messages. This process is killed, a new engine is
    started, and the stream continues.
    """
    _require_installed(under_test)
    asyncio.run(_interrupted(under_test, lambda pid: os.kill(pid, signal.SIGSTOP), _FREEZE_SECONDS))


def _require_installed(under_test: BackendUnderTest) -> None:
    not_applicable(
        under_test.entry_point is None, "the backend was passed as an object, not installed"
    )
    under_test.discard()


@final
class _Killer:
    """Kills engine processes and records their child processes."""

    def __init__(self) -> None:
        self._others = {process.pid for process in _engines()}
        self.descendants: list[psutil.Process] = []

    def kill(self) -> bool:
        """Kill the engine. Returns False if there is no engine process."""
        engines = [process for process in _engines() if process.pid not in self._others]
        for engine in engines:
            with contextlib.suppress(psutil.NoSuchProcess):  # the process has already ended
                self.descendants += engine.children(recursive=True)
                engine.kill()
        return bool(engines)


async def _start_and_kill(under_test: BackendUnderTest, killer: _Killer, phase: str) -> None:
    """Start an engine and kill it in a phase.

    Without a phase, the engine is killed as soon as its process exists. Raises `BackendError`.
    """

    def hear(progress: Progress) -> None:
        if progress.phase == phase:
            killer.kill()

    client = EngineClient(_start_message(under_test), hear)
    starting = asyncio.ensure_future(client.start())
    try:
        while not phase and not starting.done() and not killer.kill():
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.wait_for(starting, _TIMEOUT_SECONDS)
    finally:
        await client.close()


async def _interrupted(
    under_test: BackendUnderTest, interrupt: Callable[[int], object], freeze_seconds: float
) -> None:
    """The tokens of a sequence do not change if its engine is interrupted after the first token."""
    model = under_test.models.get()
    client = EngineClient(
        _start_message(under_test),
        lambda _: None,
        limits=LivenessLimits(freeze_seconds=freeze_seconds),
    )
    try:
        agreement = await asyncio.wait_for(client.start(), _TIMEOUT_SECONDS)
        prompt = prompt_of(9)
        outputs = OutputQueue()
        stream = client.submit(
            Request("request", prompt, SamplingParams(), 0, _NUM_TOKENS), outputs
        )
        await asyncio.wait_for(outputs.get(), _TIMEOUT_SECONDS)
        require(client.pid is not None, "an engine that returned output has a process")
        assert client.pid is not None
        interrupt(client.pid)
        error = await asyncio.wait_for(_last_error(stream, outputs), _TIMEOUT_SECONDS)
        sequence = LiveSequence(0, prompt, stream.output_token_ids, SamplingParams(), 0, [], -1)
        sequence.error = error
        require(
            bool(error) or len(sequence.output) == _NUM_TOKENS,
            f"only {len(sequence.output)} of {_NUM_TOKENS} tokens were received",
        )
        check_sequence(model, sequence, agreement)
    except TimeoutError:
        raise CheckFailedError(f"the supervisor waited for {_TIMEOUT_SECONDS:.0f} s") from None
    finally:
        await client.close()


async def _last_error(stream: SequenceStream, outputs: OutputQueue) -> str:
    error = ""
    while not stream.is_finished:
        error = (await outputs.get())[-1].error or ""
    return error


def _start_message(under_test: BackendUnderTest) -> Start:
    return Start(under_test.config(under_test.models.get()), REQUESTED, SchedulerConfig())


def _engines() -> list[psutil.Process]:
    engines = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            engines += [process] if _ENGINE_MODULE in process.cmdline() else []
    return engines


CHECKS: Sequence[Check] = (
    Check(
        "C-51",
        "robust",
        "a killed engine is restarted, leaves no process, and its streams continue",
        _killed,
    ),
    Check("C-52", "robust", "a hanging engine is restarted, and its streams continue", _hanging),
)
