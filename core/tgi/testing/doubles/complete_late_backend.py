"""The complete backend with two steps in flight. A thread computes the steps, which delays results.

With this double a test can find faults of the scheduler and the engine that need two steps in
flight. A step is built while the tokens of the preceding step are unknown. This step may have
masks, drafts and several tokens per row.
"""

from __future__ import annotations

from typing import final

from tgi import __version__
from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    Backend,
    BackendInfo,
    DeviceInfo,
    EngineConfig,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
    hookimpl,
)
from tgi.testing.doubles.complete_backend import complete_part, complete_support
from tgi.worker.step_worker import StepWorker

__all__ = ["CompleteLateBackend", "tgi_backend"]


@final
class CompleteLateBackend:
    """The `Backend` of the complete backend with two steps in flight."""

    @property
    def info(self) -> BackendInfo:
        """Return a description that `auto` never selects."""
        return BackendInfo(
            "complete-late", API_VERSION, "tgi", __version__, -1000, selectable=False
        )

    def probe(self) -> ProbeResult:
        """Report that the backend is usable on every machine."""
        return ProbeResult(True, devices=(DeviceInfo("numpy", "numpy in a thread, for tests"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Support the models and options of the complete backend."""
        return complete_support(spec, config, self.info.name)

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker."""
        from tgi.testing.doubles.late_part import LatePart  # noqa: PLC0415

        return StepWorker(LatePart(complete_part(config)), reporter)


@hookimpl
def tgi_backend() -> Backend:
    """Return the complete backend with two steps in flight."""
    return CompleteLateBackend()
