"""A simulated device with static shapes. The device has cache slots instead of blocks. A step has
either one prefill row or only decode rows, and a prompt is not split into chunks. Only shapes that
were compiled in `warmup` can run.

This device represents accelerators whose compiler requires fixed shapes. The variant `poor` has no
logprobs, no penalties and a maximum `top_k` of 16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np

from tgi import __version__
from tgi.architectures import GenericSpec, ModelSpec
from tgi.backend import (
    API_VERSION,
    Backend,
    BackendError,
    BackendInfo,
    BackendOption,
    DeviceInfo,
    EngineConfig,
    Float32Array,
    Int32Array,
    ProbeResult,
    Support,
    Worker,
    WorkerReporter,
    hookimpl,
)
from tgi.testing.doubles.reference_backend import ReferenceModel, refusals
from tgi.worker.adapter import AdapterPlan, ForwardBatch, ForwardModel, Progress, adapter_worker

__all__ = ["POOR_PLAN", "STATIC_PLAN", "StaticBackend", "StaticModel", "tgi_backend"]

_CONTEXT = 512
_PREFILL_TOKENS = (16, 64, 192, _CONTEXT)
_DECODE_ROWS = (1, 2, 4, 8)

STATIC_PLAN = AdapterPlan(
    max_total_tokens=_CONTEXT,
    max_sequences=_DECODE_ROWS[-1],
    max_step_tokens=_CONTEXT,
    max_cache_tokens=_CONTEXT * _DECODE_ROWS[-1],
    mode="slots",
    mixed=False,
    chunked=False,
    max_prefills=1,
    features=("late_mask", "logprobs", "mask", "prompt_logprobs"),
    facts={"attention": "numpy reference, static shapes"},
)
POOR_PLAN = replace(
    STATIC_PLAN,
    features=(),
    sampling=("temperature", "top_k", "top_p"),
    sampling_caps={"top_k": 16},
)
_PLANS = {"full": STATIC_PLAN, "poor": POOR_PLAN}


@final
class StaticModel:
    """Pads each batch to a compiled shape (rows, tokens per row) and rejects a batch that fits no
    shape.

    A prefill has one row, and a decode step has one token in each row. Padding is written to the
    last slot, which no sequence uses.
    """

    def __init__(self, inner: ForwardModel) -> None:
        self._inner = inner
        self._compiled: set[tuple[int, int]] = set()
        self._padding_slot = 0

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""
        return self._inner.vocab_size

    @property
    def shapes(self) -> frozenset[tuple[int, int]]:
        """The compiled shapes as (rows, tokens per row)."""
        return frozenset(self._compiled)

    def load(self, progress: Progress) -> None:
        """Load the weights."""
        self._inner.load(progress)

    def allocate(self, num_sequence_slots: int, progress: Progress) -> None:
        """Compile all shapes."""
        self._inner.allocate(num_sequence_slots, progress)
        self._padding_slot = num_sequence_slots - 1
        shapes = [(1, tokens) for tokens in _PREFILL_TOKENS] + [(rows, 1) for rows in _DECODE_ROWS]
        for done, shape in enumerate(shapes, 1):
            self._compiled.add(shape)
            progress(done, len(shapes))

    def forward(self, batch: ForwardBatch) -> Float32Array:
        """Return the logits [len(batch.logits_indices), vocab_size], without the logits of padding.
        Raises RuntimeError if the shape of the batch was not compiled.
        """
        counts = np.diff(batch.cu_seqlens_q)
        if batch.num_rows > 1 and counts.max() > 1:
            raise RuntimeError(
                f"rows of {counts.tolist()} tokens in one step: prefill and decode do not mix on"
                " this device"
            )
        rows, tokens = self._bucket(batch.num_rows, int(counts.max()))
        padded = self._padded(batch, rows, tokens)
        return self._inner.forward(padded)[: len(batch.logits_indices)]

    def close(self) -> None:
        """Release the weights."""
        self._inner.close()

    def _bucket(self, num_rows: int, num_tokens: int) -> tuple[int, int]:
        fitting = [
            shape
            for shape in self._compiled
            if shape[0] >= num_rows and shape[1] >= num_tokens and (num_rows == 1 or shape[1] == 1)
        ]
        if not fitting:
            raise RuntimeError(
                f"the shape of {num_rows} rows of {num_tokens} tokens was not compiled"
            )
        return min(fitting, key=lambda shape: shape[0] * shape[1])

    def _padded(self, batch: ForwardBatch, rows: int, tokens: int) -> ForwardBatch:
        missing = rows * tokens - len(batch.token_ids)
        padding_table = np.array([self._padding_slot // batch.block_size], np.int32)
        more_rows = rows - batch.num_rows
        return ForwardBatch(
            token_ids=_extended(batch.token_ids, np.zeros(missing, np.int32)),
            positions=_extended(batch.positions, np.zeros(missing, np.int32)),
            slot_mapping=_extended(
                batch.slot_mapping, np.full(missing, self._padding_slot, np.int32)
            ),
            cu_seqlens_q=(
                np.arange(rows + 1, dtype=np.int32) * tokens if more_rows else batch.cu_seqlens_q
            ),
            seq_lens=_extended(batch.seq_lens, np.ones(more_rows, np.int32)),
            block_tables=(*batch.block_tables, *[padding_table] * more_rows),
            block_size=batch.block_size,
            # Logits of padding are computed too, and removed afterwards.
            logits_indices=_extended(
                batch.logits_indices, np.arange(rows - more_rows, rows, dtype=np.int32)
            ),
        )


@final
class StaticBackend:
    """The `Backend` of the device with static shapes."""

    @property
    def info(self) -> BackendInfo:
        """Return a description that `auto` never selects."""
        option = BackendOption(
            "variant",
            "full, or poor: no log probabilities, top_k of at most 16",
            "full",
            tuple(_PLANS),
        )
        return BackendInfo(
            "static", API_VERSION, "tgi", __version__, -1000, selectable=False, options=(option,)
        )

    def probe(self) -> ProbeResult:
        """Report that the backend is usable on every machine."""
        return ProbeResult(
            True, devices=(DeviceInfo("static", "numpy in static shapes, for tests"),)
        )

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """Support the models of the numpy reference."""
        reasons = refusals(spec, config, backend=self.info.name)
        return Support("no", reasons) if reasons else Support("slow", ("numpy, for tests",))

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """Create the worker."""
        if isinstance(config.spec, GenericSpec):
            raise BackendError(
                f"The architecture `{config.spec.model_type}` is not known.",
                "Choose another model.",
            )
        plan = _PLANS[config.options.get("variant") or "full"]
        return adapter_worker(
            StaticModel(ReferenceModel(config.spec, Path(config.model_path))), plan, reporter
        )


def _extended(array: Int32Array, more: Int32Array) -> Int32Array:
    return np.concatenate([array, more])


@hookimpl
def tgi_backend() -> Backend:
    """Return the backend with static shapes."""
    return StaticBackend()
