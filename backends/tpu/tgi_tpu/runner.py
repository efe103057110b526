"""Runs steps on the device. Several steps may be in flight.

`enqueue` starts a step, and `finish` waits for the oldest step and returns its result.

Only `finish` waits for the device. Programs are dispatched one after the other. Each program uses
the cache, history and logits that the previous program produced. A step that waits for its grammar
masks delays all later steps, because the tokens that the waiting step has not sampled yet may be
inputs of the later steps. The effects of a step happen in this order: drops, additions, block
copies, rows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import jax
import numpy as np

from tgi.backend import (
    GrammarMasks,
    Int32Array,
    Limits,
    ModelRunnerOutput,
    NewSequence,
    SchedulerOutput,
    StepTimes,
)
from tgi.worker.buckets import Buckets, StepShape, padded
from tgi.worker.sequences import Int64Array, SequenceState, SequenceTable
from tgi.worker.step_checks import check_masks, missing_masks
from tgi_tpu.attention.cache import Cache
from tgi_tpu.input_batch import InputBatch, build_input_batch, health_arrays
from tgi_tpu.programs import COPIES, LoadedModel, Programs
from tgi_tpu.sampling.parameters import needs_history, sampling_arrays
from tgi_tpu.sampling.sampler import SampledRows, SampledTokens, SamplingArrays
from tgi_tpu.step_arrays import StepArrays
from tgi_tpu.step_output import PendingScores, step_result

__all__ = ["ModelRunner"]


@final
@dataclass(eq=False)
class _StepInFlight:
    """A submitted step. The device may still be computing its arrays."""

    step: SchedulerOutput
    sampled: Int64Array  # indices of the rows that sample a token
    batch: InputBatch | None  # None if the step has no rows
    mask: GrammarMasks | None
    logits: jax.Array | None = None
    tokens: SampledTokens | None = None
    scores: PendingScores | None = None
    is_started: bool = False
    prepare_ns: int = 0
    compile_ns: int = 0
    dispatched_at: int = 0

    @property
    def waits_for_masks(self) -> bool:
        """Whether sampling must wait for grammar masks."""
        return self.step.mask == "late" and self.mask is None

    @property
    def is_complete(self) -> bool:
        """Whether all programs of the step have been dispatched."""
        return self.is_started and (self.tokens is not None or not len(self.sampled))


@final
class ModelRunner:
    """Owns the cache, the token ids of all live sequences (the history) and the state of the
    sequences. All methods must be called from the same thread.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        programs: Programs,
        *,
        buckets: Buckets,
        limits: Limits,
        # The cache has one block more than was negotiated. `computes` writes to the last block,
        # because the core does not use this block.
        cache: Cache,
        # int32 [limits.max_sequences + 1, limits.max_total_tokens + 1]. Padding uses the last row.
        history: jax.Array,
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
        self._no_mask: dict[int, jax.Array] = {
            rows: self._put(np.full((rows, self._mask_width), -1, np.int32))
            for rows in buckets.rows
        }
        self._sampled_states: list[SequenceState] = []
        # The number of rows and the sampling parameters of the sequences in `_sampled_states`.
        self._sampling: tuple[int, SamplingArrays] | None = None
        self._in_flight: deque[_StepInFlight] = deque()
        self._last_ready = 0  # time at which the last result was ready

    def enqueue(self, step: SchedulerOutput) -> None:
        """Start a step.

        Raises `StepError` if the step violates the negotiated limits. The drops and additions of
        the step take effect even then.
        """
        began = self._clock()
        self._sequences.update(step)
        batch = None
        if step.rows.num_rows:
            batch = build_input_batch(step.rows, self._sequences, self._buckets, self._num_slots)
        mask = None
        if step.mask == "inline":
            mask = check_masks(step, step.masks, self._loaded.spec.vocab_size)
        in_flight = _StepInFlight(step, np.flatnonzero(step.rows.sample), batch, mask)
        if batch is not None:
            self._sequences.num_computed_tokens[batch.layout.indices] = batch.layout.lengths
        in_flight.prepare_ns = self._clock() - began
        self._in_flight.append(in_flight)
        self._dispatch()

    def enqueue_masks(self, masks: GrammarMasks) -> None:
        """Continue the step that waits for these masks."""
        waiting = next(f for f in self._in_flight if f.step.step_id == masks.step_id)
        waiting.mask = masks
        self._dispatch()

    def finish(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Wait for `step`, the oldest step in flight, and return its result.

        Raises `StepError` if its masks were not submitted.
        """
        first = self._in_flight.popleft()
        if not first.is_complete:
            self._dispatch()  # the later steps no longer wait for this step
            raise missing_masks(step)
        # This call is needed for a step that samples nothing. If the step samples tokens,
        # `device_get` below waits for the step in any case.
        jax.block_until_ready(first.logits)
        tokens, scored = jax.device_get(
            (first.tokens, None if first.scores is None else first.scores.parts)
        )
        # The device runs one step after the other.
        began, self._last_ready = max(first.dispatched_at, self._last_ready), self._clock()
        times = StepTimes(
            prepare=first.prepare_ns, forward=self._last_ready - began, compile=first.compile_ns
        )
        scores = [] if first.scores is None else first.scores.records(scored)
        shape = None if first.batch is None else first.batch.shape
        return step_result(
            first.step, first.sampled, tokens, scores=scores, times=times, shape=shape
        )

    def computes(self) -> bool:
        """Whether a step of one token, in a separate block, computes finite logits."""
        shape = self._buckets.shapes[0]
        arrays = health_arrays(shape, self._num_blocks, self._sequences.block_size)
        logits, _ = self._forward(
            shape, arrays, np.full(shape.num_tokens, self._limits.max_sequences, np.int32)
        )
        return bool(np.isfinite(np.asarray(logits)[0]).all())

    @property
    def _num_slots(self) -> int:
        return (self._num_blocks + 1) * self._sequences.block_size

    def _put(self, arrays: Any) -> Any:  # noqa: ANN401 - a tree of numpy arrays becomes the same tree on the device
        return jax.device_put(arrays, self._loaded.replicated)

    def _dispatch(self) -> None:
        """Dispatch all programs that are ready, in order."""
        for in_flight in [waiting for waiting in self._in_flight if not waiting.is_complete]:
            began, compiled = self._clock(), self._programs.compile_ns
            if not in_flight.is_started:
                self._start(in_flight)
            if not in_flight.is_complete and not in_flight.waits_for_masks:
                self._sample(in_flight)
            compile_ns = self._programs.compile_ns - compiled
            in_flight.compile_ns += compile_ns
            in_flight.dispatched_at = self._clock()
            in_flight.prepare_ns += max(0, in_flight.dispatched_at - began - compile_ns)
            if not in_flight.is_complete:
                break

    def _start(self, in_flight: _StepInFlight) -> None:
        """Dispatch the part of a step before sampling."""
        step, batch = in_flight.step, in_flight.batch
        self._write_history(step.added)
        self._copy_blocks(step)
        if batch is not None:
            in_flight.logits, hidden = self._forward(batch.shape, batch.arrays, batch.history_rows)
            in_flight.scores = self._score_prompts(batch, hidden)
        in_flight.is_started = True

    def _write_history(self, added: Sequence[NewSequence]) -> None:
        """Write the token ids of prefix cache hits, if penalties will count them.

        All other ids are written when their rows are computed.
        """
        for new in added:
            if new.num_computed_tokens and needs_history(new.sampling):
                (state,), _ = self._sequences.find([new.sequence])
                row, tokens = self._put(
                    (np.int32(state.index), padded(new.tokens, self._history.shape[1]))
                )
                self._history = self._programs.history_writer()(self._history, row, tokens)

    def _copy_blocks(self, step: SchedulerOutput) -> None:
        if not step.copy_source:
            return
        sources, targets = step.copy_source[0], step.copy_target[0]
        for first in range(0, len(sources), COPIES):
            pair = (
                padded(sources[first : first + COPIES], COPIES),
                padded(targets[first : first + COPIES], COPIES, -1),
            )
            self._cache = self._programs.block_copier()(self._cache, *self._put(pair))

    def _mask_words(self, in_flight: _StepInFlight, num_rows: int) -> jax.Array:
        """The allowed tokens of the sampled rows as bits, int32 [num_rows, mask_width]."""
        masks = in_flight.mask
        if masks is None:
            return self._no_mask[num_rows]
        words = np.full((num_rows, self._mask_width), -1, np.int32)
        is_sampled = in_flight.step.rows.sample[masks.row] != 0
        places = np.searchsorted(in_flight.sampled, masks.row[is_sampled])
        words[places] = masks.words.reshape(-1, self._mask_width)[is_sampled]
        placed: jax.Array = self._put(words)
        return placed

    def _forward(
        self, shape: StepShape, arrays: dict[str, Int32Array], history_rows: Int32Array
    ) -> tuple[jax.Array, jax.Array]:
        """Compute logits [R, V] and hidden vectors [T, H] of a step."""
        step, rows = self._put((arrays, history_rows))
        program = self._programs.forward(shape)
        logits, hidden, self._cache, self._history = program(
            self._loaded.parameters, self._cache, self._history, rows, StepArrays(**step)
        )
        return logits, hidden

    def _score_prompts(self, batch: InputBatch, hidden: jax.Array) -> PendingScores | None:
        """For each computed position that is followed by a prompt token, compute the logprob of
        this prompt token and the top tokens.

        Each call scores at most as many tokens as a step has rows with logits. Scoring a prompt
        therefore needs no more memory for logits than any other step.
        """
        scores = PendingScores.of(batch.layout)
        if scores is None:
            return None
        num_rows = batch.shape.num_sequences
        for first in range(0, len(scores.targets), num_rows):
            part = slice(first, first + num_rows)
            arguments = self._put(
                (
                    padded(scores.indices[part], num_rows),
                    padded(scores.targets[part], num_rows),
                    np.int32(max(scores.num_tops)),
                )
            )
            scorer = self._programs.scorer(batch.shape)
            scores.parts.append(scorer(self._loaded.parameters, hidden, *arguments))
        return scores

    def _sample(self, in_flight: _StepInFlight) -> None:
        """Sample the tokens of a step, and copy them to the host as soon as they are computed."""
        batch, sampled = in_flight.batch, in_flight.sampled
        assert batch is not None
        layout = batch.layout
        num_rows = batch.shape.num_sequences
        states = [layout.states[row] for row in sampled.tolist()]
        parameters = self._sampling_arrays(states, num_rows)
        draws = np.zeros(num_rows, np.float32)
        draws[: len(sampled)] = in_flight.step.rows.draw[sampled]
        prompts = np.array([state.num_prompt_tokens for state in states])
        rows = SampledRows(
            *self._put(
                (
                    padded(layout.indices[sampled], num_rows, self._limits.max_sequences),
                    padded(layout.lengths[sampled], num_rows),
                    padded(prompts, num_rows),
                    draws,
                )
            )
        )
        program = self._programs.sampler(num_rows, parameters.bias_rows.shape[0])
        mask_words = self._mask_words(in_flight, num_rows)
        in_flight.tokens, self._history = program(
            in_flight.logits, self._history, rows, parameters, mask_words
        )
        in_flight.logits = None
        for array in jax.tree.leaves(in_flight.tokens):
            array.copy_to_host_async()

    def _sampling_arrays(self, states: list[SequenceState], num_rows: int) -> SamplingArrays:
        """The sampling parameters on the device. The arrays are reused until a step has other
        sequences or another number of padded rows.
        """
        if (
            self._sampling is None
            or self._sampling[0] != num_rows
            or states != self._sampled_states
        ):
            self._sampled_states = states
            arrays = self._put(sampling_arrays([state.sampling for state in states], num_rows))
            self._sampling = num_rows, SamplingArrays(**arrays)
        return self._sampling[1]
