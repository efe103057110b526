"""Replaces the core in the conformance checks: sends the steps that a check chooses to the worker.

`ScriptedCore` allocates the cache and builds legal steps. Each step is encoded to bytes and decoded
again, as if it were sent to another process.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal, cast, final

import msgspec
import numpy as np

from tgi.backend import (
    Agreement,
    Control,
    ControlRecord,
    ControlResult,
    GrammarMasks,
    Int32Array,
    KVCachePlan,
    MediaInput,
    ModelRunnerOutput,
    NewSequence,
    Pooling,
    Rows,
    SamplingParams,
    SchedulerOutput,
    Worker,
    decode,
    encode,
)
from tgi.testing.conformance.live_sequence import LiveSequence
from tgi.testing.conformance.outputs import check_output
from tgi.testing.conformance.require import CheckFailedError, require
from tgi.testing.conformance.step_arrays import StepArrays, copies_of
from tgi.testing.step_rules import StepRules

__all__ = ["ScriptedCore"]


@final
class ScriptedCore:
    """Drives a ready worker. Free blocks and handles are in random order, as after a long run."""

    def __init__(self, worker: Worker, agreement: Agreement) -> None:
        self.worker = worker
        self.agreement = agreement
        self.rules = StepRules(agreement)
        plan = agreement.kv_cache
        rng = random.Random(0)  # noqa: S311 - for a random order, not for a secret
        self.free_blocks = _shuffled(plan, ("full", "window"), rng)
        self._free_encoder_blocks = _shuffled(plan, ("cross",), rng)
        num_sequence_slots = (
            plan.num_sequence_slots
            if plan.mode == "slots"
            else min((g.num_blocks for g in plan.groups), default=0)
        )
        self.free_slots = rng.sample(range(num_sequence_slots), num_sequence_slots)
        self.free_handles = rng.sample(
            range(10 * agreement.limits.max_sequences), 10 * agreement.limits.max_sequences
        )
        self.live: dict[int, LiveSequence] = {}
        # Blocks (source, target) that the next step copies, in the groups that store tokens and in
        # the state groups.
        self.copies: list[tuple[int, int]] = []
        self.state_copies: list[tuple[int, int]] = []
        self.mask_mode: Literal["inline", "late"] = "inline"
        self.late_masks: dict[int, GrammarMasks] = {}  # masks that were not sent yet, by step id
        self._dropped: list[int] = []
        self.step_id = 0  # of the next step

    def add(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams | None = None,
        *,
        seed: int = 0,
        output: Sequence[int] = (),
        blocks: Sequence[int] = (),
        num_computed_tokens: int = 0,
        handle: int | None = None,
        encoder_tokens: Sequence[int] = (),
        adapter: int = 0,
        media: Sequence[MediaInput] = (),
        pooling: Pooling = "none",
    ) -> LiveSequence:
        """Add a sequence. It is introduced with its first row. `blocks` are its first blocks."""
        handle = self.free_handles[-1] if handle is None else handle
        if handle in self.free_handles:
            self.free_handles.remove(handle)
        if blocks:
            self.free_blocks = [block for block in self.free_blocks if block not in blocks]
        sequence_slot = self.free_slots.pop() if self.free_slots else -1
        sequence = LiveSequence(
            handle,
            list(prompt),
            list(output),
            sampling or SamplingParams(),
            seed,
            list(blocks),
            sequence_slot,
            num_computed_tokens,
        )
        sequence.num_given = len(output)
        sequence.encoder_tokens = list(encoder_tokens)
        sequence.adapter, sequence.media, sequence.pooling = adapter, tuple(media), pooling
        if encoder_tokens:
            count = -(-len(encoder_tokens) // self.agreement.kv_cache.block_size)
            sequence.encoder_blocks = [self._free_encoder_blocks.pop() for _ in range(count)]
        self.live[handle] = sequence
        return sequence

    def drop(self, *sequences: LiveSequence) -> None:
        """Drop sequences. The next step reports the drops to the worker.

        The handles, blocks and slots are free at once. The last freed ones are reused first.
        """
        for sequence in sequences:
            del self.live[sequence.handle]
            if sequence.is_introduced:
                self._dropped.append(sequence.handle)
            held = {block for other in self.live.values() for block in other.blocks}
            self.free_blocks += [block for block in sequence.blocks if block not in held]
            self._free_encoder_blocks += sequence.encoder_blocks
            if sequence.sequence_slot >= 0:
                self.free_slots.append(sequence.sequence_slot)
            self.free_handles.append(sequence.handle)

    def clear(self) -> None:
        """Drop all sequences in a separate step."""
        self.mask_mode = "inline"
        self.drop(*list(self.live.values()))
        if self._dropped:
            self.run(self.build({}))

    def forget(self, step: SchedulerOutput) -> None:
        """Treat a step as failed, as the scheduler does.

        The drops and additions of the step count as done, and the added sequences are dropped.
        """
        handles = [new.sequence for new in step.added]
        for handle in handles:
            # `rules.submit` was not called for the failed step
            self.live[handle].num_introduced_tokens = 0
            self.drop(self.live[handle])
        flush = self.build({})
        self.rules.submit(msgspec.structs.replace(flush, dropped=[*step.dropped, *flush.dropped]))
        self.rules.collect()
        self.worker.submit(msgspec.structs.replace(flush, dropped=[*handles, *flush.dropped]))
        self.worker.collect()

    def advance(
        self, work: Mapping[LiveSequence, int], *, on_device: bool = False
    ) -> list[ModelRunnerOutput]:
        """Compute known tokens of each sequence, in as many legal steps as necessary. `work`
        contains the number of tokens per sequence.

        A count of 0 means all known tokens. `on_device` sends `TOKEN_ON_DEVICE` in place of tokens
        that the worker sampled.
        """
        targets = {s: s.num_computed_tokens + (count or s.num_left) for s, count in work.items()}
        outputs = []
        while pending := {
            s: end - s.num_computed_tokens
            for s, end in targets.items()
            if s.num_computed_tokens < end
        }:
            outputs.append(self.run(self.build(self._legal(pending), on_device=on_device)))
        return outputs

    def generate(self, sequences: Sequence[LiveSequence], count: int) -> None:
        """Generate `count` more tokens of each sequence."""
        goals = {s: len(s.output) + count for s in sequences}
        while waiting := [s for s in sequences if len(s.output) < goals[s] and not s.error]:
            before = sum(len(s.output) for s in waiting)
            self.advance(dict.fromkeys(waiting, 0))
            is_moving = (
                any(s.error for s in waiting) or sum(len(s.output) for s in waiting) > before
            )
            require(is_moving, "the worker sampled no token for rows that request one")

    def step(
        self, work: Mapping[LiveSequence, int], *, on_device: bool | Container[LiveSequence] = False
    ) -> ModelRunnerOutput:
        """Run one step with `count` known tokens of each sequence. 0 means all known tokens."""
        counts = {sequence: count or sequence.num_left for sequence, count in work.items()}
        return self.run(self.build(counts, on_device=on_device))

    def build(
        self,
        work: Mapping[LiveSequence, int],
        *,
        on_device: bool | Container[LiveSequence] = False,
        introduced: Iterable[LiveSequence] = (),
    ) -> SchedulerOutput:
        """Build one step, encoded and decoded. The caller must ensure that the step is legal.

        `on_device` may be a list of sequences. The step also introduces the sequences in
        `introduced`, which have no row.
        """
        added, arrays = [self._introduction(sequence) for sequence in introduced], StepArrays()
        for sequence, count in work.items():
            is_sampled = count == sequence.num_left and sequence.pooling == "none"
            draft_tokens, budget = (
                self._budget(sequence) if is_sampled and count == 1 else (list[int](), 1)
            )
            self._grow(sequence, sequence.num_computed_tokens + count + budget - 1)
            if not sequence.is_introduced:
                added.append(self._introduction(sequence))
            arrays.add_row(
                sequence,
                count,
                is_sampled=is_sampled,
                on_device=on_device if isinstance(on_device, bool) else sequence in on_device,
                budget=budget,
            )
            arrays.add_drafts(draft_tokens)
        return self._step(
            added,
            arrays.rows(list(work), self.agreement),
            arrays.masks(self.step_id, self.agreement.vocab_size),
        )

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Submit a step, and late masks if any. Collects the result and checks it."""
        self.submit(step)
        return self.collect(step)

    def next_rows(self, sequences: Sequence[LiveSequence]) -> dict[LiveSequence, int]:
        """Return the number of known tokens of each sequence that fit into one legal step."""
        return self._legal({sequence: sequence.num_left for sequence in sequences})

    def submit(self, step: SchedulerOutput) -> None:
        """Submit a step without its late masks."""
        self.rules.submit(step)
        self.worker.submit(step)

    def collect(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Submit the late masks of `step`, which is the oldest in flight. Collects its result and
        checks it.
        """
        late_masks = self.late_masks.pop(step.step_id, None)
        if late_masks is not None:
            masks = decode(GrammarMasks, encode(late_masks))
            self.rules.submit_masks(masks)
            self.worker.submit(masks)
        return self.accept(step, self.worker.collect())

    def accept(self, step: SchedulerOutput, output: ModelRunnerOutput | None) -> ModelRunnerOutput:
        """Check the result of the oldest step in flight, and add its tokens to the sequences."""
        self.rules.collect(output)
        if output is None:
            raise CheckFailedError("`collect` returned no result for a step in flight")
        output = decode(ModelRunnerOutput, encode(output))
        check_output(step, output, self.agreement)
        self._apply(step, output)
        return output

    def control(self, request: ControlRecord) -> ControlResult:
        """Send a control request, which may be of a kind that the worker does not know."""
        return self.worker.control(cast(Control, decode(type(request), encode(request))))

    def must_control(self, request: Control) -> None:
        """Send a control request that must succeed."""
        result = self.control(request)
        require(result.ok, f"`{request.name}` was rejected: {result.message}")

    def expect_refusal(self, request: ControlRecord, why: str) -> None:
        """Send a control request that must be rejected with a reason."""
        result = self.control(request)
        require(not result.ok, f"`{request.name}` succeeded although {why}")
        require(bool(result.message), f"`{request.name}` was rejected without a reason")

    def _apply(self, step: SchedulerOutput, output: ModelRunnerOutput) -> None:
        handles = step.rows.sequence.tolist()
        counts = dict(zip(handles, step.rows.count.tolist(), strict=True))
        for row, handle in enumerate(output.sequence.tolist()):
            sequence = self.live[handle]
            num_chosen = int(output.token_ptr[row + 1] - output.token_ptr[row])
            sequence.num_computed_tokens += counts[handle] + max(num_chosen - 1, 0)
            for index in range(output.token_ptr[row], output.token_ptr[row + 1]):
                sequence.output.append(int(output.tokens[index]))
                sequence.logprobs.append(float(output.logprobs[index]))
                sequence.places.append((step.step_id, handles.index(handle), len(handles)))
                first, last = (
                    output.top_ptr[index : index + 2].tolist() if len(output.top_ptr) else (0, 0)
                )
                pairs = zip(
                    output.top_ids[first:last].tolist(),
                    output.top_logprobs[first:last].tolist(),
                    strict=True,
                )
                sequence.tops.append(list(pairs))
        for error in output.errors:
            self.live[error.sequence].error = error.message or "an error without a message"
        for scores in output.prompt_scores:
            self.live[scores.sequence].add_prompt_scores(scores)
        for vector in output.pooled:
            self.live[vector.sequence].pooled = vector.values

    def _legal(self, pending: Mapping[LiveSequence, int]) -> dict[LiveSequence, int]:
        """Return as much of the pending work as one step may contain."""
        limits = self.agreement.limits
        decodes = [s for s in pending if s.is_decoding][
            : limits.max_step_tokens // limits.tokens_per_step
        ]
        prefills = [s for s in pending if not s.is_decoding]
        budget = limits.max_step_tokens - (
            len(decodes) * limits.tokens_per_step if limits.mixed else 0
        )
        chosen = dict[LiveSequence, int]()
        for sequence in prefills[: limits.max_prefills or len(prefills)]:
            if sequence.encoder_tokens and not sequence.is_introduced:
                # An encoder's input is not divided. If the sequence is alone in a step, the
                # encoder's input may have any length.
                return {sequence: min(pending[sequence], limits.max_step_tokens)}
            count = min(pending[sequence], budget)
            if count < pending[sequence]:
                count = count - count % limits.chunk_multiple if limits.chunked else 0
            if count <= 0:
                break
            chosen[sequence] = count
            budget -= count
        if chosen and not limits.mixed:
            return chosen
        require(bool(chosen or decodes), f"no legal step fits the limits {limits}")
        return {**dict.fromkeys(decodes, 1), **chosen}

    def _budget(self, sequence: LiveSequence) -> tuple[list[int], int]:
        """Return draft tokens for a decoding sequence, and its maximum number of sampled tokens."""
        limits = self.agreement.limits
        num_left = max(limits.max_total_tokens - len(sequence.tokens), 1)
        most = min(limits.tokens_per_step, num_left) if sequence.is_decoding else 1
        if sequence.drafter is None:
            return [], min(sequence.max_tokens, most)
        draft_tokens = sequence.drafter(sequence)[: most - 1]
        return draft_tokens, len(draft_tokens) + 1

    def _grow(self, sequence: LiveSequence, num_tokens: int) -> None:
        plan = self.agreement.kv_cache
        if plan.mode == "paged" and plan.max_batch_total_tokens:
            missing = -(-num_tokens // plan.block_size) - len(sequence.blocks)
            sequence.blocks += [self.free_blocks.pop() for _ in range(missing)]

    def _introduction(self, sequence: LiveSequence) -> NewSequence:
        sequence.num_introduced_tokens = len(sequence.tokens)
        sequence.num_sent_blocks = len(sequence.blocks)
        held = {"state": [sequence.sequence_slot], "cross": sequence.encoder_blocks}
        tables: list[Int32Array] = [
            np.array(held.get(group.kind, sequence.blocks), np.int32)
            for group in self.agreement.kv_cache.groups
        ]
        return NewSequence(
            sequence=sequence.handle,
            request_id=f"request-{sequence.handle}",
            tokens=np.array(sequence.tokens, np.int32),
            num_prompt_tokens=len(sequence.prompt),
            num_computed_tokens=sequence.num_computed_tokens,
            block_tables=tables,
            sampling=sequence.sampling,
            sequence_slot=-1 if tables else sequence.sequence_slot,
            max_total_tokens=self.agreement.limits.max_total_tokens,
            adapter=sequence.adapter,
            is_masked=bool(sequence.allowed),
            media=list(sequence.media),
            encoder_tokens=np.array(sequence.encoder_tokens, np.int32),
            pooling=sequence.pooling,
        )

    def _step(
        self, added: list[NewSequence], rows: Rows, masks: GrammarMasks | None
    ) -> SchedulerOutput:
        """Build the next step, encode it and decode it."""
        mask = "none" if masks is None else self.mask_mode
        if mask == "late" and masks is not None:
            self.late_masks[self.step_id] = masks
        inline = masks if mask == "inline" else None
        step = SchedulerOutput(
            self.step_id,
            self._dropped,
            added,
            rows,
            *copies_of(self.agreement.kv_cache, self.copies, self.state_copies),
            mask,
            inline,
        )
        self.copies, self.state_copies = [], []
        self.step_id += 1
        self._dropped = []
        return decode(SchedulerOutput, encode(step))


def _shuffled(plan: KVCachePlan, kinds: tuple[str, ...], rng: random.Random) -> list[int]:
    """Return the blocks that groups of these kinds share, in random order."""
    num_blocks = min((group.num_blocks for group in plan.groups if group.kind in kinds), default=0)
    return rng.sample(range(num_blocks), num_blocks)
