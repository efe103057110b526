"""The `WorkerPart` of the complete backends."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import final

import msgspec
import numpy as np

from tgi.backend import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    CacheGroup,
    Control,
    ControlResult,
    ExportBlocks,
    ImportBlocks,
    KVCachePlan,
    Limits,
    LoadAdapter,
    ModelError,
    ModelRunnerOutput,
    NewSequence,
    RequestedLimits,
    SamplingParams,
    SchedulerOutput,
    Sleep,
    StepError,
    StepTimes,
    UnloadAdapter,
    Wake,
)
from tgi.testing.doubles.complete_step import run_step
from tgi.testing.reference.caches import Caches
from tgi.testing.reference.network import ReferenceNetwork
from tgi.worker.cache_layout import group_kinds
from tgi.worker.parts import Progress
from tgi.worker.sequences import SequenceTable

__all__ = ["CompletePart"]

_BLOCK_SIZE = 16
_MAX_TOTAL_TOKENS = 1024
_MAX_SEQUENCES = 64
_NUM_SNAPSHOTS = 8  # blocks of the state groups in addition to one for each sequence
_FEATURES = (
    "deterministic",
    "device_token",
    "drafts",
    "embeddings",
    "late_mask",
    "logprobs",
    "lora",
    "mask",
    "multi_token",
    "prompt_logprobs",
    "sleep",
)


@final
class CompletePart:
    """Runs a `ReferenceNetwork` with every feature."""

    def __init__(self, network: ReferenceNetwork) -> None:
        self._network = network
        self._agreement: Agreement | None = None
        self._caches = Caches.allocate(1, _BLOCK_SIZE, 1, 1)
        self._kinds = group_kinds(network.spec)
        self._table = SequenceTable(Limits(1, 1, 1), 1, 1)
        self._adapter_paths: dict[int, Path] = {}

    def load(self, progress: Progress) -> None:
        """Load the weights."""
        self._network.load()
        progress(1, 1)

    def plan(self, requested: RequestedLimits) -> Agreement:
        """Return the limits and every feature that the model supports."""
        limits = Limits(
            max_total_tokens=requested.max_total_tokens
            or min(_MAX_TOTAL_TOKENS, requested.model_max_total_tokens or _MAX_TOTAL_TOKENS),
            max_sequences=requested.max_batch_size
            or min(_MAX_SEQUENCES, requested.max_concurrent_requests),
            max_step_tokens=requested.max_batch_prefill_tokens or _MAX_TOTAL_TOKENS,
            tokens_per_step=4,
            max_adapters=3,
            max_adapter_rank=8,
        )
        num_tokens = (
            requested.max_batch_total_tokens or limits.max_sequences * limits.max_total_tokens
        )
        num_blocks = -(-num_tokens // _BLOCK_SIZE)
        num_states = limits.max_sequences + _NUM_SNAPSHOTS
        groups = tuple(
            CacheGroup(kind, num_states if kind == "state" else num_blocks) for kind in self._kinds
        )
        return Agreement(
            api=API_VERSION,
            features=(*_FEATURES, *self._features_of_the_model()),
            limits=limits,
            kv_cache=KVCachePlan("paged", _BLOCK_SIZE, groups),
            vocab_size=self._network.spec.vocab_size,
            sampling=tuple(sorted(SAMPLING_FIELDS)),
            facts={"dtype": "float32", "attention": "numpy reference"},
        )

    def prepare(self, agreement: Agreement, progress: Progress) -> None:
        """Allocate the cache."""
        del progress
        self._agreement = agreement
        self._table = SequenceTable(
            agreement.limits, _BLOCK_SIZE, agreement.vocab_size, self._kinds
        )
        self._allocate()

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run the step."""
        began = time.perf_counter_ns()
        self._table.update(step)
        if self._network.has_encoder:
            for new in step.added:
                self._caches.encoder.write(new.block_tables[1], 0, new.encoder_tokens)
        for kind, *sides in zip(
            self._kinds if step.copy_source else (),
            step.copy_source,
            step.copy_target,
            strict=True,
        ):
            (self._caches.states if kind == "state" else self._caches.blocks).copy(*sides)
        prepared = time.perf_counter_ns()
        try:
            result = run_step(step, self._table, self._network, self._caches)
        except (StepError, MemoryError):
            self._table.mark_failed(step.rows)
            raise
        times = StepTimes(prepare=prepared - began, forward=time.perf_counter_ns() - prepared)
        return result.output(step, times)

    def probe(self) -> bool:
        """Compute one token of a sequence without blocks."""
        token = np.zeros(1, np.int32)
        probe = NewSequence(-1, "health", token, 1, 0, [], SamplingParams())
        return bool(np.isfinite(self._network.logits(probe, token, token)).all())

    def close(self) -> None:
        """Release the weights."""
        self._network.release()
        self._table.clear()

    def control(self, request: Control) -> ControlResult:
        """Load or unload an adapter, sleep or wake, export or import blocks."""
        try:
            match request:
                case LoadAdapter(number, path):
                    self._load_adapter(number, Path(path))
                case UnloadAdapter(number):
                    self._unload_adapter(number)
                case Sleep():
                    self._sleep()
                case Wake():
                    self._wake()
                case ExportBlocks(blocks, path):
                    Path(path).write_bytes(
                        self._signature + self._caches.blocks.export(list(blocks))
                    )
                case ImportBlocks(blocks, path):
                    self._import(list(blocks), Path(path).read_bytes())
        except (ModelError, OSError, ValueError) as error:
            return ControlResult(False, str(error))
        return ControlResult(True)

    @property
    def _agreed(self) -> Agreement:
        if self._agreement is None:
            raise AssertionError("a worker that is ready has an agreement")
        return self._agreement

    @property
    def _signature(self) -> bytes:
        """Return bytes that identify the model and the cache whose blocks a file contains."""
        about = (self._network.spec, self._agreed.kv_cache)
        return hashlib.blake2b(msgspec.msgpack.encode(about), digest_size=16).digest()

    def _features_of_the_model(self) -> tuple[str, ...]:
        images = ("images",) if self._network.has_images else ()
        if self._network.has_encoder:
            return images
        # Exported blocks do not describe a prefix if there are states too.
        more = "state_snapshots" if "state" in self._kinds else "kv_export"
        return (*images, "prefix_cache", more)

    def _allocate(self) -> None:
        plan = self._agreed.kv_cache
        num_blocks = max((g.num_blocks for g in plan.groups if g.kind == "full"), default=1)
        num_states = max((g.num_blocks for g in plan.groups if g.kind == "state"), default=1)
        max_tokens = self._agreed.limits.max_total_tokens
        self._caches = Caches.allocate(num_blocks, _BLOCK_SIZE, num_states, max_tokens)

    def _load_adapter(self, number: int, path: Path) -> None:
        limits = self._agreed.limits
        if number in self._network.adapters or number < 0:
            raise ValueError(f"the adapter number {number} is in use or negative")
        if len(self._adapter_paths) >= limits.max_adapters:
            raise ValueError(f"{limits.max_adapters} adapters are loaded, the negotiated maximum")
        self._network.load_adapter(number, path, limits.max_adapter_rank)
        self._adapter_paths[number] = path

    def _unload_adapter(self, number: int) -> None:
        if number not in self._adapter_paths:
            raise ValueError(f"the adapter {number} is not loaded")
        self._network.unload_adapter(number)
        del self._adapter_paths[number]

    def _sleep(self) -> None:
        if len(self._table):
            raise ValueError(f"{len(self._table)} sequences are not finished")
        self._network.release()
        self._caches = Caches.allocate(1, _BLOCK_SIZE, 1, 1)

    def _wake(self) -> None:
        self._network.load()
        for number, path in self._adapter_paths.items():
            self._network.load_adapter(number, path, self._agreed.limits.max_adapter_rank)
        self._allocate()

    def _import(self, blocks: list[int], data: bytes) -> None:
        signature, content = data[: len(self._signature)], data[len(self._signature) :]
        if signature != self._signature:
            raise ValueError(
                "the file was written for another model or with other negotiated limits"
            )
        self._caches.blocks.restore(blocks, content)
