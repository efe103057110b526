"""A backend that runs the numpy reference through the adapter interface (`tgi.worker.adapter`). The
conformance suite compares other backends with the numpy reference. With this backend, the suite can
check the reference itself.

Its cache stores in each slot only the token that was written there. A step computes the whole
sequence again from the tokens in its slots. This is slow, but a wrong block changes the output
immediately.
"""

from __future__ import annotations

from pathlib import Path
from typing import final, get_args

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
from tgi.worker.cache_layout import RecurrentMixer
from tgi.worker.checkpoint import check_checkpoint

__all__ = ["ReferenceBackend", "ReferenceModel", "refusals", "tgi_backend"]

_PLAN = AdapterPlan(
    max_total_tokens=1024,
    max_sequences=64,
    max_step_tokens=1024,
    max_cache_tokens=1 << 15,
    facts={"attention": "numpy reference"},
)


@final
class ReferenceModel:
    """A `ForwardModel` that calls `reference_logits`."""

    def __init__(self, spec: ModelSpec, model_path: Path) -> None:
        self._spec = spec
        self._path = model_path
        self._weights: Weights = {}
        self._slots = np.empty(0, np.int32)  # the token written to each slot

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""
        return self._spec.vocab_size

    def load(self, progress: Progress) -> None:
        """Load the checkpoint. Raises `ModelError`."""
        check_checkpoint(self._path, self._spec)
        self._weights = read_weights(self._spec, self._path)
        progress(1, 1)

    def allocate(self, num_sequence_slots: int, progress: Progress) -> None:
        """Allocate the slots, filled with token 0."""
        self._slots = np.zeros(num_sequence_slots, np.int32)
        progress(1, 1)

    def forward(self, batch: ForwardBatch) -> Float32Array:
        """Return the logits [len(batch.logits_indices), vocab_size]."""
        self._slots[batch.copy_target] = self._slots[batch.copy_source]
        self._slots[batch.slot_mapping] = batch.token_ids
        logits = np.empty((len(batch.logits_indices), self.vocab_size), np.float32)
        for row in range(batch.num_rows):
            first, last = batch.cu_seqlens_q[row : row + 2]
            own = (batch.logits_indices >= first) & (batch.logits_indices < last)
            if own.any():
                wanted = batch.positions[batch.logits_indices[own]]
                start = int(wanted.min())
                tokens = self._slots[batch.context_slots(row)].tolist()
                sequence = reference_logits(self._spec, self._weights, tokens, first=start)
                logits[own] = sequence[wanted - start]
        return logits

    def close(self) -> None:
        """Release the weights."""
        self._weights = {}


@final
class ReferenceBackend:
    """The `Backend` of the numpy reference."""

    @property
    def info(self) -> BackendInfo:
        """Return a description that `auto` never selects."""
        return BackendInfo("reference", API_VERSION, "tgi", __version__, -1000, selectable=False)

    def probe(self) -> ProbeResult:
        """Report that the backend is usable on every machine."""
        return ProbeResult(True, devices=(DeviceInfo("numpy", "numpy, for tests"),))

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Support decoders with attention, MLP and expert layers in float32."""
        reasons = refusals(spec, config, backend=self.info.name)
        return (
            Support("no", reasons)
            if reasons
            else Support("slow", ("numpy, without a cache of keys and values",))
        )

    def check(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> None:
        """Check the weight files as the loader does."""
        if isinstance(spec, ModelSpec):
            check_checkpoint(Path(config.model_path), spec)

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker."""
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
    is_complete: bool = False,
) -> tuple[str, ...]:
    """Return the reasons why the numpy reference cannot run this model with these options, or an
    empty result if it can. `is_complete` means that encoders and recurrent layers are supported.
    """
    reasons = []
    if isinstance(spec, GenericSpec):
        reasons.append(f"the architecture `{spec.model_type}` is not known")
    else:
        mixers = {
            type(branch.mixer)
            for layer in spec.decoder.layers
            for block in layer.blocks
            for branch in block.branches
        }
        known = {Attention, MLP, MixtureOfExperts}
        if is_complete:
            known |= {CrossAttention, *get_args(RecurrentMixer)}
        reasons += [
            f"it has no {name} layers"
            for name in sorted(mixer.__name__ for mixer in mixers - known)
        ]
        if len(spec.stacks) > 1 and not is_complete:
            reasons.append("it has no encoder")
    reasons += rejected_options(config, backend, dtypes=("float32",))
    return tuple(reasons)


@hookimpl
def tgi_backend() -> Backend:
    """Return the numpy reference."""
    return ReferenceBackend()
