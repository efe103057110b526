"""Runs steps on the device: several in flight, each started by `submit` and answered by `collect`, in order.

Nothing here waits for the device before `collect`: programs are dispatched one after the other, and what one leaves behind
(cache, history, logits) the next one takes. Order of effects: drops, additions, block copies, rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from tgi.backend import (
    Float32Array,
    Int32Array,
    Limits,
    ModelRunnerOutput,
    NewSequence,
    SchedulerOutput,
    StepError,
    StepTimes,
)
from tgi_tpu.buckets import Buckets, StepShape
from tgi_tpu.cache import Cache
from tgi_tpu.input_batch import InputBatch, build_input_batch, health_arrays, padded
from tgi_tpu.programs import COPIES, LoadedModel, Programs
from tgi_tpu.sampler import SampledRows, SampledTokens, SamplingArrays
from tgi_tpu.sampling_params import needs_history, sampling_arrays
from tgi_tpu.sequences import Int64Array, SequenceState, SequenceTable
from tgi_tpu.step_arrays import StepArrays
from tgi_tpu.step_output import PendingScores, step_output

__all__ = ["ModelRunner"]


@final
@dataclass(frozen=True)
class _Pending:
    """A step in flight. Its arrays are on the device, or will be."""

    step: SchedulerOutput
    shape: str
    sampled: Int64Array  # rows of the step that choose a token
    tokens: SampledTokens | None
    scores: PendingScores | None
    prepare_ns: int
    compile_ns: int


@final
class ModelRunner:
    """Owns cache, history and the sequences' state. One thread calls it."""

    def __init__(
        self,
        loaded: LoadedModel,
        programs: Programs,
        *,
        buckets: Buckets,
        limits: Limits,
        cache: Cache,  # of one block more than agreed: `computes` writes into the last, which the core does not know
        history: jax.Array,  # int32 [limits.max_sequences + 1, limits.max_total_tokens + 1]; padding has the last row
        table: SequenceTable,
        num_blocks: int,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._loaded = loaded
        self._programs = programs
        self._buckets = buckets
        self._limits = limits
        self._cache = cache
        self._history = history
        self._sequences = table
        self._num_blocks = num_blocks
        self._clock = clock
        self._mask_width = -(-loaded.spec.vocab_size // 32)
        self._no_mask = {rows: self._put(np.full((rows, self._mask_width), -1, np.int32)) for rows in buckets.rows}
        self._sampled_states: list[SequenceState] = []
        self._sampling: tuple[int, SamplingArrays] | None = None  # rows, and parameters of `_sampled_states`
        self._in_flight: deque[_Pending] = deque()

    def submit(self, step: SchedulerOutput) -> None:
        """Start a step. Raises `StepError` if it breaks the agreement; its drops and additions are done all the same."""
        if len(self._in_flight) >= self._limits.depth:
            raise StepError(f"{self._limits.depth} steps in flight were agreed, and as many are.", retryable=False)
        began, compiled = self._clock(), self._programs.compile_ns
        for handle in step.dropped:
            self._sequences.drop(handle)
        for new in step.added:
            self._add(new)
        self._check_size(step)
        self._copy_blocks(step)
        sampled = np.flatnonzero(step.rows.sample)
        tokens, scores, shape = None, None, ""
        if step.rows.num_rows:
            batch = build_input_batch(step.rows, self._sequences, self._buckets, self._num_slots)
            mask = self._mask(step, sampled, batch.shape.num_sequences)
            logits, hidden = self._forward(batch.shape, batch.arrays, batch.history_rows)
            self._sequences.num_computed_tokens[batch.indices] = batch.lengths
            scores = self._score_prompts(batch, hidden)
            tokens = self._sample(batch, logits, sampled, step.rows.draw, mask) if len(sampled) else None
            shape = batch.shape.label
        compile_ns = self._programs.compile_ns - compiled
        prepare_ns = self._clock() - began - compile_ns
        self._in_flight.append(_Pending(step, shape, sampled, tokens, scores, max(prepare_ns, 0), compile_ns))

    def collect(self) -> ModelRunnerOutput | None:
        """Wait for the oldest step in flight; None if there is none."""
        if not self._in_flight:
            return None
        pending = self._in_flight.popleft()
        began = self._clock()
        tokens, logprobs = jax.device_get((pending.tokens, None if pending.scores is None else pending.scores.logprobs))
        times = StepTimes(prepare=pending.prepare_ns, forward=self._clock() - began, compile=pending.compile_ns)
        scores = [] if pending.scores is None else pending.scores.records(logprobs)
        return step_output(pending.step, pending.sampled, tokens, scores=scores, times=times, shape=pending.shape)

    def computes(self) -> bool:
        """Whether one token, in a block of its own, gets finite logits."""
        shape = self._buckets.shapes[0]
        arrays = health_arrays(shape, self._num_blocks, self._sequences.block_size)
        logits, _ = self._forward(shape, arrays, np.full(shape.num_tokens, self._limits.max_sequences, np.int32))
        return bool(jnp.isfinite(logits[0]).all())

    @property
    def _num_slots(self) -> int:
        return (self._num_blocks + 1) * self._sequences.block_size

    def _put(self, arrays: Any) -> Any:  # noqa: ANN401 - a tree of numpy arrays becomes the same tree on the device
        return jax.device_put(arrays, self._loaded.replicated)

    def _add(self, new: NewSequence) -> None:
        state = self._sequences.add(new)
        # All other ids of a sequence come with the rows that compute them.
        if new.num_computed_tokens and needs_history(new.sampling):
            tokens = padded(new.tokens, self._history.shape[1])
            writer = self._programs.history_writer()
            self._history = writer(self._history, *self._put((np.int32(state.index), tokens)))

    def _check_size(self, step: SchedulerOutput) -> None:
        rows = step.rows
        if rows.num_rows > self._limits.max_sequences or rows.num_tokens > self._limits.max_step_tokens:
            raise StepError(
                f"The step has {rows.num_rows} rows and {rows.num_tokens} tokens; agreed are at most"
                f" {self._limits.max_sequences} and {self._limits.max_step_tokens}.",
                retryable=False,
            )

    def _copy_blocks(self, step: SchedulerOutput) -> None:
        if not step.copy_source:
            return
        sources, targets = step.copy_source[0], step.copy_target[0]
        for first in range(0, len(sources), COPIES):
            pair = padded(sources[first : first + COPIES], COPIES), padded(targets[first : first + COPIES], COPIES, -1)
            self._cache = self._programs.block_copier()(self._cache, *self._put(pair))

    def _mask(self, step: SchedulerOutput, sampled: Int64Array, num_rows: int) -> jax.Array:
        """Allowed tokens of the sampled rows, int32 [num_rows, mask_width]."""
        if step.mask == "none":
            return self._no_mask[num_rows]
        masks = step.masks
        if step.mask == "late" or masks is None or masks.words.size != len(masks.row) * self._mask_width:
            raise StepError(f"A mask of {self._mask_width} words for each row, sent with its step, was agreed.", retryable=False)
        words = np.full((num_rows, self._mask_width), -1, np.int32)
        is_sampled = step.rows.sample[masks.row] != 0
        words[np.searchsorted(sampled, masks.row[is_sampled])] = masks.words.reshape(-1, self._mask_width)[is_sampled]
        placed: jax.Array = self._put(words)
        return placed

    def _forward(self, shape: StepShape, arrays: dict[str, Int32Array], history_rows: Int32Array) -> tuple[jax.Array, jax.Array]:
        """Logits [R, V] and hidden vectors [T, H] of a step."""
        step, rows = self._put((arrays, history_rows))
        program = self._programs.forward(shape)
        logits, hidden, self._cache, self._history = program(
            self._loaded.parameters, self._cache, self._history, rows, StepArrays(**step)
        )
        return logits, hidden

    def _score_prompts(self, batch: InputBatch, hidden: jax.Array) -> PendingScores | None:
        """Score the prompt tokens after the rows' positions, as many at a time as a step has rows with logits.

        So memory holds no more logits for a scored prompt than for any other step.
        """
        scores = PendingScores.of(batch)
        if scores is None:
            return None
        num_rows = batch.shape.num_sequences
        for first in range(0, len(scores.targets), num_rows):
            part = slice(first, first + num_rows)
            indices, targets = self._put((padded(scores.indices[part], num_rows), padded(scores.targets[part], num_rows)))
            scorer = self._programs.scorer(batch.shape)
            scores.logprobs.append(scorer(self._loaded.parameters, hidden, indices, targets))
        return scores

    def _sample(
        self, batch: InputBatch, logits: jax.Array, sampled: Int64Array, draws: Float32Array, mask: jax.Array
    ) -> SampledTokens:
        num_rows = batch.shape.num_sequences
        states = [batch.states[row] for row in sampled.tolist()]
        if self._sampling is None or self._sampling[0] != num_rows or states != self._sampled_states:
            self._sampled_states = states
            self._sampling = num_rows, self._put(sampling_arrays([state.sampling for state in states], num_rows))
        parameters = self._sampling[1]
        draw = np.zeros(num_rows, np.float32)
        draw[: len(sampled)] = draws[sampled]
        prompts = np.array([len(state.prompt) for state in states])
        rows = SampledRows(
            *self._put(
                (
                    padded(batch.indices[sampled], num_rows, self._limits.max_sequences),
                    padded(batch.lengths[sampled], num_rows),
                    padded(prompts, num_rows),
                    draw,
                )
            )
        )
        program = self._programs.sampler(num_rows, parameters.bias_rows.shape[0])
        tokens, self._history = program(logits, self._history, rows, parameters, mask)
        for array in jax.tree.leaves(tokens):
            array.copy_to_host_async()
        result: SampledTokens = tokens
        return result
