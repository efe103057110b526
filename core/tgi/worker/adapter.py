"""Level 0 of the author's ladder: a model with `forward(batch) -> logits` becomes a `Worker`.

The author holds the weights and the keys and values; the adapter holds everything else: sequences,
block tables, positions, sampling, prompt scores, errors of rows, and the states of the protocol. It
samples in numpy, one row at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, final

import numpy as np

from tgi.backend.agreement import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    CacheGroup,
    Health,
    KVCachePlan,
    Limits,
    MemoryItem,
    RequestedLimits,
)
from tgi.backend.control import Control, ControlResult
from tgi.backend.errors import BackendError
from tgi.backend.protocols import WorkerReporter
from tgi.backend.records import (
    Float32Array,
    GrammarMasks,
    Int32Array,
    ModelRunnerOutput,
    NewSequence,
    SchedulerOutput,
    StepTimes,
)
from tgi.worker.adapter_step import AdapterStep, ForwardBatch, run_rows
from tgi.worker.live_sequences import LiveSequences
from tgi.worker.pending_step import PendingStep, out_of_memory
from tgi.worker.states import WorkerState
from tgi.worker.step_checks import check_size

__all__ = ["AdapterPlan", "AdapterWorker", "ForwardBatch", "ForwardModel"]

Progress = Callable[[int, int], None]
"""Called with (done, total), at least every 5 s."""


class ForwardModel(Protocol):
    """What the author of a level 0 backend writes. One thread calls it."""

    @property
    def vocab_size(self) -> int:
        """Logits per token."""

    def load(self, progress: Progress) -> None:
        """Read the weights. Raises `ModelError` naming file and tensor."""

    def allocate(self, num_slots: int, progress: Progress) -> None:
        """Make room for the keys and values of `num_slots` tokens, and compile whatever serving
        needs.
        """

    def forward(self, batch: ForwardBatch) -> Float32Array:
        """Keep keys and values of the batch's tokens; logits [len(batch.logits_indices),
        vocab_size].
        """

    def close(self) -> None:
        """Release the device. Legal in every state, and twice."""


@final
@dataclass(frozen=True)
class AdapterPlan:
    """What the author's device can do; `AdapterWorker` agrees on it, lowered to the user's wish."""

    max_total_tokens: int  # greatest context of one sequence
    max_sequences: int
    max_step_tokens: int
    max_cache_tokens: int  # greatest number of tokens whose keys and values fit
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


@final
class AdapterWorker:
    """The eight methods of `Worker` over a `ForwardModel`. A step runs inside `collect`."""

    def __init__(self, model: ForwardModel, plan: AdapterPlan, reporter: WorkerReporter) -> None:
        self._model = model
        self._plan = plan
        self._reporter = reporter
        self._state = WorkerState.CREATED
        self._agreement: Agreement | None = None
        self._sequences = LiveSequences()
        self._outstanding = PendingStep()

    def load(self) -> None:
        """Read the weights."""
        self._state.require(WorkerState.CREATED, "load")
        self._model.load(lambda done, total: self._reporter.progress("load", done, total))
        self._state = WorkerState.LOADED

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """The plan, lowered to the wish. Raises `BackendError` if a given value is beyond the
        plan.
        """
        self._state.require(WorkerState.LOADED, "negotiate")
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
        self._agreement = Agreement(
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
            facts=plan.facts,
        )
        self._state = WorkerState.AGREED
        return self._agreement

    def warmup(self) -> None:
        """Let the model allocate and compile. It gets a block more than agreed, which `health` and
        padding may write into.
        """
        self._state.require(WorkerState.AGREED, "warmup")
        self._model.allocate(
            self._num_slots + self._block_size,
            lambda done, total: self._reporter.progress("warmup", done, total),
        )
        self._state = WorkerState.READY

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Take the step that the next `collect` runs, or the masks that it waits for."""
        self._state.require(WorkerState.READY, "submit")
        self._outstanding.submit(step)

    def collect(self, timeout: float) -> ModelRunnerOutput | None:
        """Run the outstanding step to its end, however long it takes; None if there is none."""
        del timeout
        self._state.require(WorkerState.READY, "collect")
        step = self._outstanding.take()
        if step is None:
            return None
        try:
            return self._run(step)
        except MemoryError as error:
            raise out_of_memory(step) from error

    def control(self, request: Control) -> ControlResult:
        """Nothing of the kind was agreed."""
        return ControlResult(False, f"`{request.name}` was not agreed")

    def health(self, deep: bool) -> Health:
        """Whether the worker can serve; `deep` computes one token in the block that nobody has."""
        if self._state is not WorkerState.READY:
            return Health(False, f"the worker is {self._state.value}")
        if not deep:
            return Health(True)
        step = AdapterStep(self._block_size)
        step.add_row(
            np.zeros(1, np.int32),
            0,
            np.array([self._num_slots // self._block_size], np.int32),
            np.zeros(1, np.int64),
        )
        is_finite = bool(np.isfinite(self._model.forward(step.batch())).all())
        return Health(
            is_finite, "" if is_finite else "a forward pass of one token gave NaN or infinity"
        )

    def close(self) -> None:
        """Let the model go."""
        self._model.close()
        self._sequences.clear()
        self._outstanding.take()
        self._state = WorkerState.CLOSED

    @property
    def _agreed(self) -> Agreement:
        if self._agreement is None:
            raise AssertionError("a worker that is ready has an agreement")
        return self._agreement

    @property
    def _block_size(self) -> int:
        """A slot is treated as one block that holds a whole sequence."""
        plan = self._agreed.kv_cache
        return plan.block_size if plan.mode == "paged" else plan.sequence_slot_tokens

    @property
    def _num_slots(self) -> int:
        return self._agreed.kv_cache.max_batch_total_tokens

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

    def _run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        began = time.perf_counter_ns()
        check_size(step.rows, self._agreed.limits)
        self._sequences.drop(step.dropped)
        for new in step.added:
            self._introduce(new)
        adapter_step = AdapterStep(self._block_size)
        if step.copy_source:
            adapter_step.copy_blocks(step.copy_source[0], step.copy_target[0])
        rows = self._sequences.of_rows(step.rows)
        prepared = time.perf_counter_ns()
        output = run_rows(step, rows, adapter_step, self._model.forward, self._agreed.vocab_size)
        times = StepTimes(prepare=prepared - began, forward=time.perf_counter_ns() - prepared)
        return output(times)

    def _introduce(self, new: NewSequence) -> None:
        is_paged = self._agreed.kv_cache.mode == "paged"
        table: Int32Array = (
            new.block_tables[0] if is_paged else np.array([new.sequence_slot], np.int32)
        )
        self._sequences.introduce(new, table, self._agreed.limits)


def _kept(option: str, given: int | None, most: int, otherwise: int) -> int:
    """The user's value, or what the backend chooses where there is none."""
    if given is None:
        return otherwise
    if given > most:
        raise BackendError(
            f"`{option} {given}` is beyond what this backend can do.", f"Use at most {most}."
        )
    return given
