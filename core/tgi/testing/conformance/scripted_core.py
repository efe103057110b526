"""A core that does what a check tells it: hands out cache, forms legal steps, and sends them as
bytes, as to another process.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, cast, final

import msgspec
import numpy as np

from tgi.backend import (
    TOKEN_ON_DEVICE,
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
from tgi.testing.conformance.check import CheckFailedError, require
from tgi.testing.conformance.live_sequence import LiveSequence, draw_of
from tgi.testing.conformance.outputs import check_output
from tgi.testing.step_rules import StepRules

__all__ = ["ScriptedCore"]

COLLECT_SECONDS = 600.0


@final
class ScriptedCore:
    """Drives a worker that is ready. Blocks and handles lie in no order, as after a day of
    serving.
    """

    def __init__(self, worker: Worker, agreement: Agreement) -> None:
        self.worker = worker
        self.agreement = agreement
        self.rules = StepRules(agreement)
        plan = agreement.kv_cache
        rng = random.Random(0)  # noqa: S311 - an order, not a secret
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
        self.copies: list[tuple[int, int]] = []  # blocks (source, target) that the next step copies
        self.mask_mode: Literal["inline", "late"] = "inline"
        self._late_masks: GrammarMasks | None = None  # of the step that was built last
        self._dropped: list[int] = []
        self._step_id = 0

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
        """A sequence of the next step in which it has a row. With `blocks` it begins with these."""
        handle = self.free_handles[-1] if handle is None else handle
        self.free_handles.remove(handle)
        sequence_slot = self.free_slots.pop() if self.free_slots else -1
        sampling = sampling or SamplingParams()
        sequence = LiveSequence(
            handle,
            list(prompt),
            list(output),
            sampling,
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
        """Told to the worker in the next step. What they held is handed out again at once, most
        recent first.
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
        """Drop everything, and say so."""
        self.mask_mode = "inline"
        self.drop(*list(self.live.values()))
        if self._dropped:
            self.run(self.build({}))

    def forget(self, step: SchedulerOutput) -> None:
        """As the scheduler does after a failed step: its drops and new sequences count as done, and
        the latter are dropped.
        """
        handles = [new.sequence for new in step.added]
        for handle in handles:
            self.live[handle].num_introduced_tokens = 0  # the rules saw nothing of it
            self.drop(self.live[handle])
        flush = self.build({})
        self.rules.submit(msgspec.structs.replace(flush, dropped=[*step.dropped, *flush.dropped]))
        self.rules.collect()
        self.worker.submit(msgspec.structs.replace(flush, dropped=[*handles, *flush.dropped]))
        self.worker.collect(COLLECT_SECONDS)

    def advance(
        self, work: Mapping[LiveSequence, int], *, on_device: bool = False
    ) -> list[ModelRunnerOutput]:
        """Run `count` known tokens of each sequence (0 = all that are left), in as many legal steps
        as it takes.

        `on_device` sends `TOKEN_ON_DEVICE` for tokens that the worker chose.
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
        """Let each sequence have `count` more tokens."""
        goals = {s: len(s.output) + count for s in sequences}
        while waiting := [s for s in sequences if len(s.output) < goals[s] and not s.error]:
            before = sum(len(s.output) for s in waiting)
            self.advance(dict.fromkeys(waiting, 0))
            is_moving = (
                any(s.error for s in waiting) or sum(len(s.output) for s in waiting) > before
            )
            require(is_moving, "the worker chose no token for rows that ask for one")

    def build(
        self, work: Mapping[LiveSequence, int], *, on_device: bool = False
    ) -> SchedulerOutput:
        """One step, as it arrives on the other side. The caller sees to it that it is legal."""
        added, starts, counts, ids, sample, draws = [], [], [], list[int](), [], []
        pointers, new_blocks = [0], list[int]()
        budgets, extra_draws, draft_tokens, draft_ptr = list[int](), list[float](), list[int](), [0]
        masks = list[tuple[int, tuple[int, ...]]]()
        for row, (sequence, count) in enumerate(work.items()):
            start, is_sampled = (
                sequence.num_computed_tokens,
                count == sequence.num_left and sequence.pooling == "none",
            )
            own_draft_tokens, budget = (
                self._budget(sequence) if is_sampled and count == 1 else ([], 1)
            )
            self._grow(sequence, start + count + budget - 1)
            if not sequence.is_introduced:
                added.append(self._introduction(sequence))
                sequence.num_introduced_tokens, sequence.num_sent_blocks = (
                    len(sequence.tokens),
                    len(sequence.blocks),
                )
            new_blocks += sequence.blocks[sequence.num_sent_blocks :]
            sequence.num_sent_blocks = len(sequence.blocks)
            pointers.append(len(new_blocks))
            chosen_from = len(sequence.prompt) + sequence.num_given
            known = sequence.tokens[start : start + count]
            ids += [
                TOKEN_ON_DEVICE if on_device and start + i >= chosen_from else token
                for i, token in enumerate(known)
            ]
            starts.append(start)
            counts.append(count)
            sample.append(is_sampled)
            draws.append(draw_of(sequence) if is_sampled else 0.0)
            budgets.append(budget)
            extra_draws += [draw_of(sequence, ahead) for ahead in range(1, budget)]
            draft_tokens += own_draft_tokens
            draft_ptr.append(len(draft_tokens))
            if sequence.allowed and is_sampled:
                masks += [
                    (row, sequence.allowed_at(len(sequence.output) + i) or ())
                    for i in range(budget)
                ]
        groups = [group.kind in ("full", "window") for group in self.agreement.kv_cache.groups]
        rows = Rows(
            np.array([s.handle for s in work], np.int32),
            np.array(starts, np.int32),
            np.array(counts, np.int32),
            np.array(ids, np.int32),
            np.array(sample, np.uint8),
            np.array(draws, np.float32),
            [
                np.array(pointers if has_growth else [0] * len(pointers), np.int32)
                for has_growth in groups
            ],
            [np.array(new_blocks if has_growth else [], np.int32) for has_growth in groups],
            np.array(budgets if self.agreement.limits.tokens_per_step > 1 else [], np.int32),
            np.array(extra_draws, np.float32),
            np.array(draft_ptr if draft_tokens else [], np.int32),
            np.array(draft_tokens, np.int32),
        )
        return self._step(added, rows, self._masks(masks))

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Send a step, with the masks it waits for; take its result and hold it against what was
        asked.
        """
        self.rules.submit(step)
        self.worker.submit(step)
        if self._late_masks is not None:
            masks = decode(GrammarMasks, encode(self._late_masks))
            self.rules.submit_masks(masks)
            self.worker.submit(masks)
        output = self.worker.collect(COLLECT_SECONDS)
        self.rules.collect(output)
        if output is None:
            raise CheckFailedError(f"no result came within {COLLECT_SECONDS:.0f} s")
        output = decode(ModelRunnerOutput, encode(output))
        check_output(step, output, self.agreement)
        self._apply(step, output)
        return output

    def control(self, request: ControlRecord) -> ControlResult:
        """Send a control request, which may be of a kind that the worker does not know."""
        return self.worker.control(cast(Control, decode(type(request), encode(request))))

    def must_control(self, request: Control) -> None:
        """Send a control request that must be carried out."""
        result = self.control(request)
        require(result.ok, f"`{request.name}` was refused: {result.message}")

    def expect_refusal(self, request: ControlRecord, why: str) -> None:
        """Send a control request that must be refused with a reason."""
        result = self.control(request)
        require(not result.ok, f"`{request.name}` was done although {why}")
        require(bool(result.message), f"`{request.name}` was refused without a reason")

    def _apply(self, step: SchedulerOutput, output: ModelRunnerOutput) -> None:
        counts = dict(zip(step.rows.sequence.tolist(), step.rows.count.tolist(), strict=True))
        for row, handle in enumerate(output.sequence.tolist()):
            sequence = self.live[handle]
            num_chosen = int(output.token_ptr[row + 1] - output.token_ptr[row])
            sequence.num_computed_tokens += counts[handle] + max(num_chosen - 1, 0)
            for index in range(output.token_ptr[row], output.token_ptr[row + 1]):
                sequence.output.append(int(output.tokens[index]))
                sequence.logprobs.append(float(output.logprobs[index]))
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
            known = self.live[scores.sequence].prompt_scores
            known |= {scores.start + i: value for i, value in enumerate(scores.logprobs.tolist())}
        for vector in output.pooled:
            self.live[vector.sequence].pooled = vector.values

    def _legal(self, pending: Mapping[LiveSequence, int]) -> dict[LiveSequence, int]:
        """As much of the pending work as one step may hold."""
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
                # An encoder runs whole; alone in its step it may be of any length.
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
        """Guesses at the next tokens of a sequence that decodes, and how many tokens it may
        choose.
        """
        limits = self.agreement.limits
        num_left = max(limits.max_total_tokens - len(sequence.tokens), 1)
        most = min(limits.tokens_per_step, num_left) if sequence.is_decoding else 1
        if sequence.drafter is None:
            return [], min(sequence.max_tokens, most)
        draft_tokens = sequence.drafter(sequence)[: most - 1]
        return draft_tokens, len(draft_tokens) + 1

    def _grow(self, sequence: LiveSequence, num_tokens: int) -> None:
        plan = self.agreement.kv_cache
        if plan.mode == "paged" and plan.block_size:
            missing = -(-num_tokens // plan.block_size) - len(sequence.blocks)
            sequence.blocks += [self.free_blocks.pop() for _ in range(missing)]

    def _introduction(self, sequence: LiveSequence) -> NewSequence:
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
        """The next step, as bytes and back."""
        mask = "none" if masks is None else self.mask_mode
        self._late_masks = masks if mask == "late" else None
        inline = masks if mask == "inline" else None
        step = SchedulerOutput(
            self._step_id, self._dropped, added, rows, *self._copies(), mask, inline
        )
        self._step_id += 1
        self._dropped = []
        return decode(SchedulerOutput, encode(step))

    def _copies(self) -> tuple[list[Int32Array], list[Int32Array]]:
        copies, self.copies = self.copies, []
        if not copies:
            return [], []
        source, target = (
            [np.array(side, np.int32)] * len(self.agreement.kv_cache.groups)
            for side in zip(*copies, strict=True)
        )
        return source, target

    def _masks(self, allowed: Sequence[tuple[int, tuple[int, ...]]]) -> GrammarMasks | None:
        """One mask for each (row, tokens)."""
        if not allowed:
            return None
        width = -(-self.agreement.vocab_size // 32)
        bits = np.zeros((len(allowed), width * 32), np.uint8)
        for place, (_, tokens) in enumerate(allowed):
            bits[place, list(tokens)] = 1
        words = np.packbits(bits, axis=1, bitorder="little").view(np.int32).reshape(-1)
        return GrammarMasks(self._step_id, np.array([row for row, _ in allowed], np.int32), words)


def _shuffled(plan: KVCachePlan, kinds: tuple[str, ...], rng: random.Random) -> list[int]:
    """The blocks that groups of these kinds share, in no order."""
    num_blocks = min((group.num_blocks for group in plan.groups if group.kind in kinds), default=0)
    return rng.sample(range(num_blocks), num_blocks)
