"""The numpy reference as a backend of level 0: what the conformance kit measures others by, held
against itself.

Its cache keeps, in each slot, the token that was written there, and a step computes the whole
sequence anew from what it finds in the slots: nothing is fast, and a wrong block shows at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np

from tgi import __version__
from tgi.architectures import (
    MLP,
    Attention,
    CrossAttention,
    GenericSpec,
    MixtureOfExperts,
    ModelSpec,
)
from tgi.backend import (
    API_VERSION,
    Backend,
    BackendError,
    BackendInfo,
    DeviceInfo,
    EngineConfig,
    Float32Array,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
    hookimpl,
    rejected_options,
)
from tgi.testing.reference.model import Weights, reference_logits
from tgi.testing.reference.weights import read_weights
from tgi.worker.adapter import AdapterPlan, ForwardBatch, Progress, adapter_worker

__all__ = ["ReferenceBackend", "ReferenceModel", "refusals", "tgi_backend"]

_PLAN = AdapterPlan(
    max_total_tokens=1024,
    max_sequences=64,
    max_step_tokens=1024,
    max_cache_tokens=1 << 15,
    facts={"dtype": "float32", "attention": "numpy reference"},
)


@final
class ReferenceModel:
    """`ForwardModel` over `reference_logits`."""

    def __init__(self, spec: ModelSpec, model_path: Path) -> None:
        self._spec = spec
        self._path = model_path
        self._weights: Weights = {}
        self._slots = np.empty(0, np.int32)  # the token written to each slot

    @property
    def vocab_size(self) -> int:
        """Logits per token."""
        return self._spec.vocab_size

    def load(self, progress: Progress) -> None:
        """Read the checkpoint. Raises `ModelError`."""
        self._weights = read_weights(self._spec, self._path)
        progress(1, 1)

    def allocate(self, num_sequence_slots: int, progress: Progress) -> None:
        """Slots that hold token 0."""
        self._slots = np.zeros(num_sequence_slots, np.int32)
        progress(1, 1)

    def forward(self, batch: ForwardBatch) -> Float32Array:
        """Logits [len(batch.logits_indices), vocab_size]."""
        self._slots[batch.copy_target] = self._slots[batch.copy_source]
        self._slots[batch.slot_mapping] = batch.token_ids
        logits = np.empty((len(batch.logits_indices), self.vocab_size), np.float32)
        for row in range(batch.num_rows):
            first, last = batch.cu_seqlens_q[row : row + 2]
            own = (batch.logits_indices >= first) & (batch.logits_indices < last)
            if own.any():
                sequence = reference_logits(
                    self._spec, self._weights, self._slots[batch.context_slots(row)].tolist()
                )
                logits[own] = sequence[batch.positions[batch.logits_indices[own]]]
        return logits

    def close(self) -> None:
        """Let go of the weights."""
        self._weights = {}


@final
class ReferenceBackend:
    """The light half."""

    @property
    def info(self) -> BackendInfo:
        """Never taken by `auto`."""
        return BackendInfo("reference", API_VERSION, "tgi", __version__, -1000, selectable=False)

    def probe(self) -> ProbeResult:
        """Usable everywhere."""
        return ProbeResult(True, devices=(DeviceInfo("numpy", "numpy, for tests"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Decoders of attention, MLP and experts, in float32."""
        reasons = refusals(spec, config, backend=self.info.name)
        return (
            Support("no", reasons)
            if reasons
            else Support("slow", ("numpy, without a cache of keys and values",))
        )

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """The heavy half."""
        if isinstance(config.spec, GenericSpec):
            raise BackendError(
                f"The architecture `{config.spec.model_type}` is not known.",
                "Choose another model.",
            )
        return adapter_worker(ReferenceModel(config.spec, Path(config.model_path)), _PLAN, reporter)


def refusals(
    spec: ModelSpec | GenericSpec,
    config: EngineConfig,
    *,
    backend: str,
    has_encoders: bool = False,
) -> tuple[str, ...]:
    """The reasons why the numpy reference, as the backend of this name, cannot run this model with
    these options; empty = it can. `has_encoders`: it also runs encoders.
    """
    reasons = []
    if isinstance(spec, GenericSpec):
        reasons.append(f"the architecture `{spec.model_type}` is not one that it knows")
    else:
        mixers = {
            type(branch.mixer)
            for layer in spec.decoder.layers
            for block in layer.blocks
            for branch in block.branches
        }
        known = {Attention, MLP, MixtureOfExperts} | ({CrossAttention} if has_encoders else set())
        reasons += [
            f"it has no {name} layers"
            for name in sorted(mixer.__name__ for mixer in mixers - known)
        ]
        if len(spec.stacks) > 1 and not has_encoders:
            reasons.append("it has no encoder")
    reasons += rejected_options(config, backend, dtypes=("float32",))
    return tuple(reasons)


@hookimpl
def tgi_backend() -> Backend:
    """The numpy reference."""
    return ReferenceBackend()
