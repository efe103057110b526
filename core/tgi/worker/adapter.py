"""The adapter interface, which turns a model with `forward(batch) -> logits` into a `Worker`.

The model owns the weights and the KV cache. The adapter implements everything else: sequences,
block tables, positions, sampling, prompt scores and row errors.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Literal, Protocol, final

import numpy as np

from tgi.backend.agreement import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    CacheGroup,
    Dtype,
    KVCachePlan,
    Limits,
    MemoryItem,
    RequestedLimits,
)
from tgi.backend.errors import BackendError
from tgi.backend.protocols import WorkerReporter
from tgi.backend.records import (
    Float32Array,
    ModelRunnerOutput,
    SchedulerOutput,
    StepTimes,
)
from tgi.worker.adapter_step import ForwardBatch, run_rows, token_batch
from tgi.worker.parts import Progress
from tgi.worker.sequences import SequenceTable
from tgi.worker.step_worker import StepWorker

__all__ = [
    "AdapterPart",
    "AdapterPlan",
    "ForwardBatch",
    "ForwardModel",
    "Progress",
    "adapter_worker",
]


class ForwardModel(Protocol):
    """The model that the author of an adapter backend implements. All methods are called from one
    thread.
    """

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""

    def load(self, progress: Progress) -> None:
        """Load the weights. Raises a `ModelError` with the file and the tensor if the weights
        cannot be loaded.
        """

    def allocate(self, num_slots: int, progress: Progress) -> None:
        """Allocate memory for the keys and values of `num_slots` tokens, and compile all programs
        that steps need.
        """

    def forward(self, batch: ForwardBatch) -> Float32Array:
        """Store the keys and values of the batch's tokens and return the logits
        [len(batch.logits_indices), vocab_size].
        """

    def close(self) -> None:
        """Release the device. This method is allowed in every state and may be called several
        times.
        """


@final
@dataclass(frozen=True)
class AdapterPlan:
    """The capabilities of the device. If a lower limit is requested, the requested limit is
    negotiated.
    """

    max_total_tokens: int  # maximum context length of one sequence
    max_sequences: int
    max_step_tokens: int
    max_cache_tokens: int  # maximum number of tokens in the KV cache
    mode: Literal["paged", "slots"] = "paged"
    block_size: int = 16
    mixed: bool = True
    chunked: bool = True
    max_prefills: int = 0
    features: tuple[str, ...] = (
        "device_token",
        "late_mask",
        "logprobs",
        "mask",
        "prefix_cache",
        "prompt_logprobs",
    )
    sampling: tuple[str, ...] = tuple(sorted(SAMPLING_FIELDS))
    sampling_caps: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    dtype: Dtype = "float32"  # of the hidden vectors between the layers


@final
class AdapterPart:
    """The `WorkerPart` of a `ForwardModel`. Sampling uses numpy, one row at a time."""

    def __init__(self, model: ForwardModel, plan: AdapterPlan) -> None:
        self._model = model
        self._plan = plan
        self._agreement: Agreement | None = None
        self._table = SequenceTable(Limits(1, 1, 1), 1, 1)

    def load(self, progress: Progress) -> None:
        """Load the weights."""
        self._model.load(progress)

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Return the requested limits, and the limits of the plan where none are requested. Raises
        `BackendError` if a requested value exceeds the plan.
        """
        plan = self._plan
        context = min(
            plan.max_total_tokens, requested.model_max_total_tokens or plan.max_total_tokens
        )
        limits = Limits(
            max_total_tokens=_kept(
                "--max-total-tokens", requested.max_total_tokens, plan.max_total_tokens, context
            ),
            max_sequences=_kept(
                "--max-batch-size",
                requested.max_batch_size,
                plan.max_sequences,
                min(plan.max_sequences, requested.max_concurrent_requests),
            ),
            max_step_tokens=_kept(
                "--max-batch-prefill-tokens",
                requested.max_batch_prefill_tokens,
                plan.max_step_tokens,
                plan.max_step_tokens,
            ),
            mixed=plan.mixed,
            chunked=plan.chunked,
            max_prefills=plan.max_prefills,
        )
        kv_cache = self._kv_cache(requested, limits)
        return Agreement(
            api=API_VERSION,
            features=tuple(
                name for name in plan.features if plan.mode == "paged" or name != "prefix_cache"
            ),
            limits=limits,
            kv_cache=kv_cache,
            vocab_size=self._model.vocab_size,
            sampling=plan.sampling,
            sampling_caps=plan.sampling_caps,
            memory=(MemoryItem("KV cache", 0, f"{kv_cache.max_batch_total_tokens} tokens"),),
            facts={"dtype": plan.dtype, **plan.facts},
            dtype=plan.dtype,
        )

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Let the model allocate its cache and compile its programs. The cache has one block more
        than negotiated. `probe` uses this block, and the model may use it for padding.
        """
        plan = agreement.kv_cache
        # In slots mode, a sequence slot is one block that contains a whole sequence.
        block_size = plan.block_size if plan.mode == "paged" else plan.sequence_slot_tokens
        self._agreement = agreement
        self._table = SequenceTable(agreement.limits, block_size, agreement.vocab_size)
        self._model.allocate(plan.max_batch_total_tokens + block_size, progress)

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run the step."""
        began = time.perf_counter_ns()
        self._table.update(step)
        prepared = time.perf_counter_ns()
        result = run_rows(step, self._table, self._model.forward, self._agreed.vocab_size)
        forward_ns = time.perf_counter_ns() - prepared
        return result.output(step, StepTimes(prepare=prepared - began, forward=forward_ns))

    def probe(self) -> bool:
        """Compute one token in the additional block, which no sequence uses."""
        block_size = self._table.block_size
        block = self._agreed.kv_cache.max_batch_total_tokens // block_size
        return bool(np.isfinite(self._model.forward(token_batch(block, block_size))).all())

    def close(self) -> None:
        """Release the model."""
        self._model.close()
        self._table.clear()

    @property
    def _agreed(self) -> Agreement:
        if self._agreement is None:
            raise AssertionError("a worker that is ready has an agreement")
        return self._agreement

    def _kv_cache(self, requested: RequestedLimits, limits: Limits) -> KVCachePlan:
        plan, length = self._plan, limits.max_total_tokens
        wanted = min(plan.max_cache_tokens, limits.max_sequences * length)
        num_tokens = _kept(
            "--max-batch-total-tokens",
            requested.max_batch_total_tokens,
            plan.max_cache_tokens,
            wanted,
        )
        if num_tokens < length:
            raise BackendError(
                f"`--max-total-tokens {length}` does not fit the cache of {num_tokens} tokens.",
                "Lower it.",
            )
        if plan.mode == "slots":
            return KVCachePlan(
                "slots",
                num_sequence_slots=min(limits.max_sequences, num_tokens // length),
                sequence_slot_tokens=length,
            )
        return KVCachePlan(
            "paged", plan.block_size, (CacheGroup("full", math.ceil(num_tokens / plan.block_size)),)
        )


def adapter_worker(model: ForwardModel, plan: AdapterPlan, reporter: WorkerReporter) -> StepWorker:
    """Create a worker for a `ForwardModel`."""
    return StepWorker(AdapterPart(model, plan), reporter)


def _kept(option: str, requested: int | None, most: int, otherwise: int) -> int:
    """Return the requested value, or `otherwise` if no value was requested. Raises `BackendError`
    if the requested value exceeds `most`.
    """
    if requested is None:
        return otherwise
    if requested > most:
        raise BackendError(
            f"`{option} {requested}` exceeds the limit of this backend.", f"Use at most {most}."
        )
    return requested
