"""The backend under test, with its models, its workers and the requested limits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from tgi.backend import (
    FEATURES,
    Agreement,
    Backend,
    BackendError,
    EngineConfig,
    RequestedLimits,
    Worker,
)
from tgi.testing.conformance.models import TinyModel, TinyModels
from tgi.testing.conformance.require import require
from tgi.testing.conformance.scripted_core import ScriptedCore

__all__ = [
    "REQUESTED",
    "REQUESTED_LARGE",
    "BackendUnderTest",
    "RecordingReporter",
    "prompt_of",
    "start",
]

_FIRST_STEP_ID = 1 << 32  # of the large model, as after a long run
REQUESTED = RequestedLimits(
    max_total_tokens=128,
    max_concurrent_requests=8,
    model_max_total_tokens=512,
    features=tuple(sorted(FEATURES)),
)

REQUESTED_LARGE = RequestedLimits(
    max_concurrent_requests=64, model_max_total_tokens=1024, features=REQUESTED.features
)
"""The request that leaves most limits to the backend, as `tgi serve` does without options."""


@final
@dataclass
class RecordingReporter:
    """Records the reports of a worker."""

    progress_calls: list[tuple[str, int, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Record a progress report."""
        self.progress_calls.append((phase, done, total))

    def log(self, message: str) -> None:
        """Record a line of the log."""
        self.lines.append(message)

    def count(self, phase: str) -> int:
        """The number of progress reports of a phase."""
        return sum(reported == phase for reported, _, _ in self.progress_calls)


@final
class BackendUnderTest:
    """One backend, with tiny models in `folder`.

    All checks that only need a ready worker use the same worker.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        folder: Path,
        *,
        entry_point: metadata.EntryPoint | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.backend = backend
        self.folder = folder
        self.entry_point = entry_point
        self.models = TinyModels(folder)
        self.reporter = RecordingReporter()  # the reporter of the shared worker
        self._options = options or {}
        self._core: ScriptedCore | None = None
        self._large: ScriptedCore | None = None

    @property
    def options(self) -> dict[str, str]:
        """The options of the backend."""
        return self._options

    def config(self, model: TinyModel, path: Path | None = None, **changes: Any) -> EngineConfig:  # noqa: ANN401 - fields
        """Build the config to serve `model`, optionally from a changed copy of its checkpoint.

        `changes` are fields of `EngineConfig`.
        """
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        path = path or model.path
        config = EngineConfig(
            self.name, str(path), model.spec, options=self._options, cache_dir=str(cache)
        )
        return msgspec.structs.replace(config, **changes)

    def worker(
        self,
        model: TinyModel | None = None,
        reporter: RecordingReporter | None = None,
        path: Path | None = None,
        **changes: Any,  # noqa: ANN401 - fields of `EngineConfig`
    ) -> Worker:
        """Create a worker. No method of the worker has been called."""
        return self.backend.create_worker(
            self.config(model or self.models.get(), path, **changes),
            reporter or RecordingReporter(),
        )

    def core(self) -> ScriptedCore:
        """Return a core with the shared worker for the plain model. The core has no sequences."""
        core = self._kept()
        core.clear()
        return core

    def large_core(self) -> ScriptedCore:
        """Return a core with the shared worker for the large model, whose limits the backend chose.
        The core has no sequences.
        """
        if self._large is None:
            self._large = start(self.worker(self.models.large()), REQUESTED_LARGE)
            self._large.step_id = _FIRST_STEP_ID
        self._large.clear()
        return self._large

    @contextlib.contextmanager
    def serving(
        self,
        model: TinyModel,
        requested: RequestedLimits = REQUESTED,
        **changes: Any,  # noqa: ANN401
    ) -> Iterator[ScriptedCore]:
        """Return a core with a new worker. The worker is closed at the end of the block.

        `changes` are fields of `EngineConfig`.
        """
        worker = self.worker(model, **changes)
        try:
            yield start(worker, requested)
        finally:
            worker.close()

    def agreement(self) -> Agreement:
        """The limits that the backend negotiated for the plain model."""
        return self._kept().agreement

    def supports(self, model: TinyModel, **changes: Any) -> bool:  # noqa: ANN401 - fields of `EngineConfig`
        """Whether the backend reports that it can run the model with these changes."""
        return self.backend.supports(model.spec, self.config(model, **changes)).status != "no"

    def discard(self) -> None:
        """Close the shared workers, because the state of a worker is unknown after a failed
        check.
        """
        cores, self._core, self._large = (self._core, self._large), None, None
        for core in cores:
            if core is not None:
                core.worker.close()

    def _kept(self) -> ScriptedCore:
        if self._core is None:
            self.reporter = RecordingReporter()
            self._core = start(self.worker(reporter=self.reporter))
        return self._core


def prompt_of(length: int, seed: int = 0, vocab_size: int = 384) -> list[int]:
    """A random prompt without special tokens."""
    prompt: Sequence[int] = (
        np.random.default_rng([seed, length]).integers(4, vocab_size, length).tolist()
    )
    return list(prompt)


def start(worker: Worker, requested: RequestedLimits = REQUESTED) -> ScriptedCore:
    """Load, negotiate and warm up a worker. Returns a core that drives it.

    Raises `CheckFailedError` if the worker raises `BackendError`.
    """
    try:
        worker.load()
        agreement = worker.negotiate(requested)
        worker.warmup()
    except BackendError as error:
        worker.close()
        require(False, f"the worker does not start with a tiny model: {error}")
        raise
    return ScriptedCore(worker, agreement)
