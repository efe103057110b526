"""The complete backend with two steps in flight, whose results come late from a thread.

It shows faults of the scheduler and the engine that one step in flight cannot show: tokens that are
not known when the next step is formed, together with masks, drafts and several tokens in a step.
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
    """The `Backend` of the late double."""

    @property
    def info(self) -> BackendInfo:
        """Never taken by `auto`."""
        return BackendInfo(
            "complete-late", API_VERSION, "tgi", __version__, -1000, selectable=False
        )

    def probe(self) -> ProbeResult:
        """Usable everywhere."""
        return ProbeResult(True, devices=(DeviceInfo("numpy", "numpy in a thread, for tests"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """The models and options of the complete backend."""
        return complete_support(spec, config, self.info.name)

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Build the worker."""
        from tgi.testing.doubles.late_part import LatePart  # noqa: PLC0415

        return StepWorker(LatePart(complete_part(config)), reporter)


@hookimpl
def tgi_backend() -> Backend:
    """The late double of the complete backend."""
    return CompleteLateBackend()
