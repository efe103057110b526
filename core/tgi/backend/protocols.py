"""The two objects a backend implements, and the one it is given."""

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

__all__ = ["Backend", "Explainer", "ModelReader", "Worker", "WorkerReporter"]


class WorkerReporter(Protocol):
    """What the engine offers a worker. Nothing else of the core is within its reach."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Report progress of a start phase (`load`, `warmup`, `compile`), in any unit; call it at
        least every 5 s.
        """

    def log(self, message: str) -> None:
        """Show one line to the operator. No user text."""


@runtime_checkable
class Worker(Protocol):
    """The heavy half: one replica of the model. It alone imports a framework. At most these eight
    methods.

    States: created, `load`, `negotiate`, `warmup`, then steps, then `close`. One thread calls it.
    """

    def load(self) -> None:
        """Read the weights onto the device. Raises `ModelError` naming file and tensor."""

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """Return the limits of this worker, once, after `load`. Allocates no cache. The features
        are among the requested ones. Raises `BackendError` if a requested value cannot be kept.
        """

    def warmup(self) -> None:
        """Allocate the cache and compile or capture whatever serving needs."""

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Start a step; at most `Limits.depth` are outstanding. Late masks follow their step."""

    def collect(self) -> ModelRunnerOutput | None:
        """Wait for the oldest outstanding step and return its result; None if no step is
        outstanding.

        Raises `StepError` if the step failed as a whole.
        """

    def control(self, request: Control) -> ControlResult:
        """Load adapters, sleep, write blocks to files. No step is outstanding. A request whose
        feature was not negotiated, or that cannot be carried out, is refused and not raised.
        """

    def health(self, deep: bool) -> Health:
        """Whether the device answers; `deep` runs a real forward pass of one token."""

    def close(self) -> None:
        """Release the device. Idempotent, legal in every state."""


@runtime_checkable
class Backend(Protocol):
    """The light half: imported at start, imports no framework and no driver."""

    @property
    def info(self) -> BackendInfo:
        """Name, seam version, priority, own options."""

    def probe(self) -> ProbeResult:
        """Whether this machine can run it. Never raises, never hangs, initialises no device."""

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Whether it can run this model with these options, with reasons and a memory estimate."""

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Build the heavy half, in the engine process."""


@runtime_checkable
class Explainer(Protocol):
    """What a backend may do besides: tell how it would compute a model that it supports."""

    def explain(
        self, spec: ModelSpec | GenericSpec, config: EngineConfig
    ) -> tuple[Implementation, ...]:
        """One entry per operation that can be computed in several ways. Loads no weights; may
        import the framework.
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
        model file, write it to a folder below `cache_dir` and return that folder. Raises
        `ModelError` that names the file.
        """
