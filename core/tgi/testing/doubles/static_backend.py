"""A device of static shapes without hardware: cache slots instead of blocks, one prefill in a step,
never beside decode rows, no chunks, and no shape that was not compiled in `warmup`.

It stands for accelerators whose compiler fixes every shape. What serves on it unchanged serves on
them. Its variant `poor` has no log probabilities, no penalties and a top-k of at most 16.
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
    facts={"dtype": "float32", "attention": "numpy reference, static shapes"},
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
    """Pads each batch to a compiled shape (rows, tokens of a row) and refuses what fits none.

    A prefill has one row, a decode step one token in each row. Padding is written into the last
    slot, which no sequence has.
    """

    def __init__(self, inner: ForwardModel) -> None:
        self._inner = inner
        self._compiled: set[tuple[int, int]] = set()
        self._padding_slot = 0

    @property
    def vocab_size(self) -> int:
        """Logits per token."""
        return self._inner.vocab_size

    @property
    def shapes(self) -> frozenset[tuple[int, int]]:
        """Compiled shapes: rows, tokens of a row."""
        return frozenset(self._compiled)

    def load(self, progress: Progress) -> None:
        """Read the weights."""
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
        """Logits [len(batch.logits_indices), vocab_size], none of padding. Raises RuntimeError for
        a shape of its own.
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
        """Let go of the weights."""
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
            # Logits of padding are computed too, and cut off.
            logits_indices=_extended(
                batch.logits_indices, np.arange(rows - more_rows, rows, dtype=np.int32)
            ),
        )


@final
class StaticBackend:
    """The light half."""

    @property
    def info(self) -> BackendInfo:
        """Never taken by `auto`."""
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
        """Usable everywhere."""
        return ProbeResult(
            True, devices=(DeviceInfo("static", "numpy in static shapes, for tests"),)
        )

    def supports(self, spec: ModelSpec | GenericSpec, config: EngineConfig) -> Support:
        """What the numpy reference supports."""
        reasons = refusals(spec, config, backend=self.info.name)
        return Support("no", reasons) if reasons else Support("slow", ("numpy, for tests",))

    def create_worker(self, config: EngineConfig, reporter: WorkerReporter) -> Worker:
        """The heavy half."""
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
    """The static device."""
    return StaticBackend()
