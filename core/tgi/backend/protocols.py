"""The two classes that a backend implements, the reporter that its worker uses, and the optional
methods of a backend.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend.agreement import (
    Agreement,
    BackendInfo,
    EngineConfig,
    Health,
    Implementation,
    ProbeResult,
    RequestedLimits,
    Support,
)
from tgi.backend.control import Control, ControlResult
from tgi.backend.model_files import ModelDescription
from tgi.backend.records import GrammarMasks, ModelRunnerOutput, SchedulerOutput

__all__ = ["Backend", "Explainer", "ModelChecker", "ModelReader", "Worker", "WorkerReporter"]


class WorkerReporter(Protocol):
    """The engine services that a worker can use. The worker uses no other part of the core."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Report progress of a startup phase (`load`, `warmup`, `compile`), in any unit. The worker
        must call this method at least every 5 s during the phase.
        """

    def log(self, message: str) -> None:
        """Send one log line to the operator. The line must not contain text that a user sent or
        that was generated for a user.
        """


@runtime_checkable
class Worker(Protocol):
    """Runs one replica of the model. A framework is imported only in the worker, and in
    `Explainer.explain`. A worker has no other public methods than these eight.

    The core calls `load`, `negotiate` and `warmup`, then runs steps, then calls `close`. All calls
    come from one thread.
    """

    def load(self) -> None:
        """Load the weights onto the device. Raises a `ModelError` with the file and the tensor if
        the weights cannot be loaded.
        """

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """Return the limits of this worker. The core calls this method once, after `load`. This
        method allocates no cache. The agreement contains only features that were requested. Raises
        `BackendError` if the worker cannot provide a requested value.
        """

    def warmup(self) -> None:
        """Allocate the cache, and compile or capture all programs that steps need."""

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Start a step. At most `Limits.depth` steps are in flight. Late masks are submitted after
        their step.
        """

    def collect(self) -> ModelRunnerOutput | None:
        """Wait for the oldest step in flight and return its result, or None if no step is in
        flight.

        Raises `StepError` if the step failed as a whole.
        """

    def control(self, request: Control) -> ControlResult:
        """Execute a control request. No step is in flight. If the request needs a feature that was
        not negotiated, or cannot be executed, the method returns a result that is not ok. It raises
        no error.
        """

    def health(self, deep: bool) -> Health:
        """Report whether the device works. With `deep` the worker runs a forward pass of one
        token.
        """

    def close(self) -> None:
        """Release the device. This method is allowed in every state and may be called several
        times.
        """


@runtime_checkable
class Backend(Protocol):
    """Describes the backend and creates its worker. It is imported at startup and imports no
    framework and no driver.
    """

    @property
    def info(self) -> BackendInfo:
        """Return the name, interface version, priority and options of the backend."""

    def probe(self) -> ProbeResult:
        """Report whether the backend can run on this machine. This method never raises, never hangs
        and initializes no device.
        """

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Report whether the backend can run this model with these options, with the reasons and a
        memory estimate.
        """

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker. The engine process calls this method."""


@runtime_checkable
class Explainer(Protocol):
    """An optional method of a backend: it reports the implementation of each operation for a model
    that the backend supports.
    """

    def explain(
        self, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> tuple[Implementation, ...]:
        """Return one entry per operation that has several implementations. This method loads no
        weights, but it may import the framework.
        """


@runtime_checkable
class ModelChecker(Protocol):
    """An optional method of a backend: it checks the files of a model that the backend supports.

    `tgi inspect`, `tgi doctor` and `tgi migrate` call this method, so that they reject the models
    that `Worker.load` rejects.
    """

    def check(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> None:
        """Raise the `ModelError` that `Worker.load` would raise, as far as it is known without
        reading the weights. May import the framework.
        """


@runtime_checkable
class ModelReader(Protocol):
    """An optional method of a backend: it describes models in a format that the core does not read.

    The core reads `config.json` in the model's folder. It calls this method only if that file is
    missing, which is usual for formats in which one file is a complete model.
    """

    def describe_model(
        self, model_path: str, model_format: str, cache_dir: str
    ) -> ModelDescription:
        """Describe the model in the file or folder `model_path`. Loads no weights.

        `model_format` is the name of one of the backend's formats. If the tokenizer is inside the
        model file, write it to a folder below `cache_dir` and return that folder. Raises a
        `ModelError` with the name of the file if the model cannot be described.
        """
