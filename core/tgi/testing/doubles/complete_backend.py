"""The numpy reference with every feature of the seam: adapters, images, encoders, drafts, several
tokens in a step, pooling, sleep, blocks to files. What the kit's checks of features are proven on,
and an example for those who write one.
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
    """The light half."""

    @property
    def info(self) -> BackendInfo:
        """Never taken by `auto`."""
        return BackendInfo("complete", API_VERSION, "tgi", __version__, -1000, selectable=False)

    def probe(self) -> ProbeResult:
        """Usable everywhere."""
        return ProbeResult(
            True, devices=(DeviceInfo("numpy", "numpy with every feature, for tests"),)
        )

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """What the numpy reference supports, and encoders."""
        return complete_support(spec, config, self.info.name)

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """The heavy half."""
        return StepWorker(complete_part(config), reporter)


def complete_support(spec: ModelSpec | GenericSpec, config: EngineConfig, backend: str) -> Support:
    """Report whether the numpy reference, as the backend of this name, supports the model with
    these options. It supports encoders.
    """
    reasons = refusals(spec, config, backend=backend, has_encoders=True)
    if reasons:
        return Support("no", reasons)
    return Support("slow", ("numpy, without a cache of keys and values",))


def complete_part(config: EngineConfig) -> CompletePart:
    """Build the part of a worker that serves the model of `config`."""
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
    """The numpy reference with every feature."""
    return CompleteBackend()
