"""Runs the real scheduler on a worker and records the output of each sequence."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import final

import numpy as np

from tgi.backend import (
    Agreement,
    GrammarMasks,
    Int32Array,
    ModelRunnerOutput,
    SamplingParams,
    SchedulerOutput,
    Worker,
    decode,
    encode,
)
from tgi.scheduler import Request, Scheduler, SchedulerConfig, SequenceOutput
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.outputs import check_output
from tgi.testing.conformance.require import CheckFailedError, require
from tgi.testing.step_rules import StepRules

__all__ = ["ScheduledRun", "ScriptedConstraint"]

_MAX_STEPS = 10_000
_PREFIX = "request-"  # of the ids of requests


@final
class ScriptedConstraint:
    """A constraint that allows the tokens `allowed[i]` for output token i, or every token if the
    entry is None. The entries are used cyclically. The constraint is always ready.
    """

    def __init__(self, allowed: Sequence[tuple[int, ...] | None], vocab_size: int) -> None:
        self._masks = [
            None if tokens is None else mask_of(tokens, vocab_size) for tokens in allowed
        ]
        self.num_accepted = 0
        self.error = ""
        self.is_complete = False

    def may_sample(self, *, is_pending: bool) -> bool:
        """Allow every row."""
        del is_pending
        return True

    def mask(self) -> Int32Array | None:
        """Return the mask of the next token."""
        return self._masks[self.num_accepted % len(self._masks)]

    def accept(self, token_id: int) -> None:
        """Append a token."""
        del token_id
        self.num_accepted += 1

    def close(self) -> None:
        """Release nothing."""


def mask_of(tokens: Sequence[int], vocab_size: int) -> Int32Array:
    """Return the mask that allows `tokens`, int32 [ceil(vocab_size / 32)]."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(tokens)] = 1
    words: Int32Array = np.packbits(bits, bitorder="little").view(np.int32)
    return words


@final
class ScheduledRun:
    """Generates sequences with the steps that the server would schedule."""

    def __init__(self, worker: Worker, agreement: Agreement) -> None:
        self._worker = worker
        self._agreement = agreement
        self._scheduler = Scheduler(
            agreement, SchedulerConfig(), clock=lambda: 0, hash_key=b"k" * 32
        )
        self._rules = StepRules(agreement)
        self._in_flight: deque[SchedulerOutput] = deque()
        self._sequences: dict[int, LiveSequence] = {}
        self._numbers: dict[int, int] = {}  # of the sequences, by handle
        self._next_id = 0
        self.ended: list[LiveSequence] = []

    @property
    def live(self) -> list[int]:
        """The ids of sequences that have not ended."""
        return list(self._sequences)

    @property
    def num_live(self) -> int:
        """The number of sequences that have not ended."""
        return len(self._sequences)

    def add(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: SamplingParams,
        *,
        seed: int,
        allowed: tuple[tuple[int, ...] | None, ...] = (),
    ) -> None:
        """Queue a sequence. If `allowed` is not empty, the sequence is constrained. See
        `ScriptedConstraint`.
        """
        number = self._next_id
        self._next_id += 1
        sequence = LiveSequence(number, list(prompt), [], sampling, seed, [], -1)
        sequence.allowed = allowed
        self._sequences[number] = sequence
        request = Request(f"{_PREFIX}{number}", list(prompt), sampling, seed, max_new_tokens)
        constraint = ScriptedConstraint(allowed, self._agreement.vocab_size) if allowed else None
        refused = self._scheduler.add(number, request, (), constraint)
        require(refused is None, f"the scheduler rejected a sequence of the suite: {refused}")

    def abort(self, number: int) -> None:
        """Abort a sequence, as if its client had disconnected."""
        self._scheduler.abort(number)
        del self._sequences[number]

    def step(self) -> None:
        """Submit steps up to the negotiated depth, then collect one result."""
        while len(self._in_flight) < self._agreement.limits.depth:
            step = self._scheduler.schedule()
            if step is None:
                break
            step = decode(SchedulerOutput, encode(step))
            self._rules.submit(step)
            self._worker.submit(step)
            self._in_flight.append(step)
            self._note(step)
            self._submit_late_masks()
        if self._in_flight:
            self._collect()

    def finish(self) -> None:
        """Run until all sequences have ended."""
        for _ in range(_MAX_STEPS):
            if not self._scheduler.has_work and not self._in_flight:
                self._scheduler.check()
                return
            self.step()
        raise CheckFailedError(f"the work did not end within {_MAX_STEPS} steps")

    def _collect(self) -> None:
        step = self._in_flight.popleft()
        output = self._worker.collect()
        self._rules.collect(output)
        if output is None:
            raise CheckFailedError("`collect` returned no result for a step in flight")
        output = decode(ModelRunnerOutput, encode(output))
        check_output(step, output, self._agreement)
        for update in self._scheduler.update(output):
            self._receive(update)
        self._submit_late_masks()

    def _submit_late_masks(self) -> None:
        for late_masks in self._scheduler.take_late_masks():
            masks = decode(GrammarMasks, encode(late_masks))
            self._rules.submit_masks(masks)
            self._worker.submit(masks)

    def _note(self, step: SchedulerOutput) -> None:
        """Note the rows of each sequence, so that messages can describe the sequence."""
        for new in step.added:
            number = int(new.request_id.removeprefix(_PREFIX))
            self._numbers[new.sequence] = number
        for row, handle in enumerate(step.rows.sequence.tolist()):
            sequence = self._sequences.get(self._numbers[handle])
            if sequence is None:
                continue  # it was aborted
            if step.rows.start[row] < len(sequence.prompt):
                sequence.chunks.append(int(step.rows.count[row]))
            if step.rows.sample[row]:
                sequence.places.append((step.step_id, row, step.rows.num_rows))

    def _receive(self, update: SequenceOutput) -> None:
        sequence = self._sequences[update.sequence_id]
        sequence.output += update.token_ids
        sequence.error = update.error or ""
        if update.finish_reason is not None or update.error is not None:
            self.ended.append(self._sequences.pop(update.sequence_id))
