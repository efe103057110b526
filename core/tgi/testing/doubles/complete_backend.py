"""A backend that runs the numpy reference with every feature of the backend interface: adapters,
images, encoders, drafts, several tokens per step, pooling, sleep and export of blocks.

The feature checks of the conformance suite are verified with this backend. It is also an example
for authors of backends.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, final

from tgi import __version__
from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    Backend,
    BackendError,
    BackendInfo,
    DeviceInfo,
    EngineConfig,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
    hookimpl,
)
from tgi.testing.doubles.reference_backend import refusals
from tgi.worker.step_worker import StepWorker

if TYPE_CHECKING:
    from tgi.testing.doubles.complete_part import CompletePart

__all__ = ["CompleteBackend", "complete_part", "complete_support", "tgi_backend"]


@final
class CompleteBackend:
    """The `Backend` of the numpy reference with every feature."""

    @property
    def info(self) -> BackendInfo:
        """Return a description that `auto` never selects."""
        return BackendInfo("complete", API_VERSION, "tgi", __version__, -1000, selectable=False)

    def probe(self) -> ProbeResult:
        """Report that the backend is usable on every machine."""
        return ProbeResult(
            True, devices=(DeviceInfo("numpy", "numpy with every feature, for tests"),)
        )

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Support the models of the numpy reference, encoders and recurrent layers."""
        return complete_support(spec, config, self.info.name)

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker."""
        return StepWorker(complete_part(config), reporter)


def complete_support(spec: ModelSpec | GenericSpec, config: EngineConfig, backend: str) -> Support:
    """Report whether the complete numpy reference supports the model with these options.
    `backend` is the backend's name in the reasons.
    """
    reasons = refusals(spec, config, backend=backend, is_complete=True)
    if reasons:
        return Support("no", reasons)
    return Support("slow", ("numpy, without a cache of keys and values",))


def complete_part(config: EngineConfig) -> CompletePart:
    """Create the part of a worker that runs the model of `config`."""
    from tgi.testing.doubles.complete_part import CompletePart  # noqa: PLC0415
    from tgi.testing.reference.network import ReferenceNetwork  # noqa: PLC0415

    if isinstance(config.spec, GenericSpec):
        raise BackendError(
            f"The architecture `{config.spec.model_type}` is not known.",
            "Choose another model.",
        )
    return CompletePart(ReferenceNetwork(config.spec, Path(config.model_path)))


@hookimpl
def tgi_backend() -> Backend:
    """Return the numpy reference with every feature."""
    return CompleteBackend()
