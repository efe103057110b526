"""A worker that detects errors in the block tables and rows of the scheduler.

Instead of keys and values, the worker stores a fingerprint of all tokens up to a position, per
block and offset. If a row finds another fingerprint before its start, the scheduler assigned a
block with outdated contents or a block of another sequence. The generated token is a pure function
of the preceding tokens, the encoder tokens and the random draw.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tests.core.scheduler.fingerprints import (
    allowed_tokens,
    choose,
    fingerprint,
    open_handles,
    score,
    start_print,
    top_arrays,
)
from tests.core.scheduler.state_copies import check_copies, copy_states, state_groups
from tgi.backend import (
    TOKEN_ON_DEVICE,
    Agreement,
    ModelRunnerOutput,
    NewSequence,
    PromptScores,
    RowError,
    SchedulerOutput,
)


@dataclass
class WorkerSequence:
    """A sequence in the worker, with its tokens and its block tables by group."""

    new: NewSequence
    tokens: list[int]
    tables: list[list[int]]
    # True after a row of the sequence failed. Rows that are already in flight then read invalid
    # contents, and their results must not be used.
    is_broken: bool = False


@dataclass
class CheckingWorker:
    """A worker that checks each step against the negotiated limits when the step is submitted, and
    runs the step when it is collected. `failures` determines which steps and rows fail.
    """

    agreement: Agreement
    failures: random.Random | None = None
    sequences: dict[int, WorkerSequence] = field(default_factory=dict)
    # Pairs (step, blocks and slots that the step uses).
    steps: deque = field(default_factory=deque)
    memory: dict = field(default_factory=dict)
    # The blocks and slots of each sequence by handle, as of the last submitted step.
    places: dict[int, set] = field(default_factory=dict)
    # The number of tokens with which each sequence was added, by handle.
    num_known: dict[int, int] = field(default_factory=dict)
    last_step_id: int = -1

    def submit(self, step: SchedulerOutput):
        limits, rows = self.agreement.limits, step.rows
        assert step.step_id > self.last_step_id
        self.last_step_id = step.step_id
        assert len(self.steps) < limits.depth
        assert rows.num_rows <= limits.max_sequences
        assert int(rows.count.sum()) == rows.num_tokens <= limits.max_step_tokens
        assert len(set(rows.sequence.tolist())) == rows.num_rows
        self._check_budgets(step)
        in_use = set().union(*(places for _, places in self.steps))
        for handle in step.dropped:
            del self.places[handle]
        for new in step.added:
            assert new.sequence not in self.places, "a handle was reused before it was dropped"
            assert new.sequence not in step.dropped
            fresh = self._places(new)
            assert not fresh & in_use, "a block or slot of a step in flight was allocated again"
            self.places[new.sequence] = fresh | self._shared(new)
            self.num_known[new.sequence] = len(new.tokens)
        for group, blocks in enumerate(rows.new_blocks):
            assert rows.new_block_ptr[group][-1] == len(blocks)
            assert not {(group, block) for block in blocks.tolist()} & in_use, (
                "a block of a step in flight was allocated again"
            )
            for row, handle in enumerate(rows.sequence.tolist()):
                first, last = rows.new_block_ptr[group][row : row + 2]
                self.places[handle] |= {(group, block) for block in blocks[first:last].tolist()}
        assert len(self.places) <= limits.max_sequences
        copied = check_copies(self.agreement, step, self.places, in_use)
        self._check_rows(step)
        self._check_encoders(step)
        self._check_masks(step)
        self.steps.append(
            (
                step,
                copied.union(*(self.places[handle] for handle in rows.sequence.tolist())),
            )
        )

    def submit_masks(self, masks):
        """Add late masks to the step in flight that waits for them."""
        for place, (step, places) in enumerate(self.steps):
            if step.step_id == masks.step_id:
                assert step.mask == "late"
                assert step.masks is None
                self.steps[place] = msgspec.structs.replace(step, masks=masks), places
                return
        raise AssertionError("masks were sent for a step that is not in flight")

    def _check_masks(self, step):
        feature = {"none": None, "inline": "mask", "late": "late_mask"}[step.mask]
        assert feature is None or self.agreement.has(feature)
        assert (step.masks is not None) == (step.mask == "inline")
        for row in allowed_tokens(step):
            assert step.rows.sample[row]

    def _check_budgets(self, step):
        """Check the token budgets. Only a row with one input token may generate several tokens, at
        most the negotiated number. After such a row, no row of the same sequence may be submitted
        until the result is collected.
        """
        rows, begun = step.rows, {new.sequence for new in step.added}
        num_budgets = rows.num_rows if self.agreement.limits.tokens_per_step > 1 else 0
        assert len(rows.max_tokens) == num_budgets
        assert int((rows.max_tokens - 1).sum()) == len(rows.extra_draw)
        open_rows = set()
        for each in [*(earlier for earlier, _ in self.steps), step]:
            # A handle that is added again belongs to another sequence.
            open_rows -= {new.sequence for new in each.added}
            open_rows |= set() if each is step else open_handles(each.rows)
        assert not open_rows & set(rows.sequence.tolist()), (
            "a row follows a row of several tokens that is not collected"
        )
        if num_budgets:
            assert (rows.max_tokens >= 1).all()
            assert (rows.max_tokens <= self.agreement.limits.tokens_per_step).all()
            assert (rows.count[rows.max_tokens > 1] == 1).all()
            assert (rows.sample[rows.max_tokens > 1] == 1).all()
            assert not open_handles(rows) & begun
            assert self.agreement.has("multi_token") or not open_handles(rows)

    def _check_rows(self, step):
        limits, rows = self.agreement.limits, step.rows
        # The tokens with which a sequence was added are prefilled in rows of any length. Without
        # chunked prefill, they may also be recomputed in decode rows.
        handles, starts = rows.sequence.tolist(), rows.start.tolist()
        begun = {new.sequence for new in step.added}
        is_prefill = [
            start < self.num_known[handle] if limits.chunked else handle in begun
            for handle, start in zip(handles, starts, strict=True)
        ]
        assert is_prefill == sorted(is_prefill), "a decode row follows a prefill row"
        assert not limits.max_prefills or sum(is_prefill) <= limits.max_prefills
        lengths = {new.sequence: len(new.tokens) for new in step.added}
        for handle, start, count in zip(
            rows.sequence.tolist(), rows.start.tolist(), rows.count.tolist(), strict=True
        ):
            length = lengths.get(handle)
            if count > 1 and length is not None and start + count < length:
                assert (
                    count % limits.chunk_multiple == 0
                    if limits.chunked
                    else count == limits.max_step_tokens
                )
        if not limits.mixed and any(is_prefill):
            assert all(
                is_prefill[row] or self._is_prefilling(step, row) for row in range(rows.num_rows)
            )
        assert (rows.tokens[rows.tokens < 0] == TOKEN_ON_DEVICE).all()
        assert self.agreement.has("device_token") or (rows.tokens >= 0).all()

    def _check_encoders(self, step):
        """Check the encoders. All encoder tokens of a sequence are processed in the step of its
        first row. They must fit into the token budget unless the step contains only this sequence.
        """
        num_encoder_tokens = sum(len(new.encoder_tokens) for new in step.added)
        if len(step.added) > 1 or step.rows.num_rows > 1:
            assert (
                step.rows.num_tokens + num_encoder_tokens <= self.agreement.limits.max_step_tokens
                or not num_encoder_tokens
            )
        starting = {new.sequence for new in step.added if len(new.encoder_tokens)}
        assert starting <= set(step.rows.sequence.tolist())

    def _is_prefilling(self, step, row):
        sequence = self.sequences.get(int(step.rows.sequence[row]))
        return sequence is None or int(step.rows.start[row]) < len(sequence.new.tokens)

    def _places(self, new):
        if self.agreement.kv_cache.mode == "slots":
            assert new.block_tables == []
            return {("slot", new.sequence_slot)}
        size = self.agreement.kv_cache.block_size
        groups = zip(self.agreement.kv_cache.groups, new.block_tables, strict=True)
        skipped = new.num_computed_tokens // (size or 1)
        places = set()
        for g, (group, table) in enumerate(groups):
            if group.kind == "cross":
                assert len(table) == -(-len(new.encoder_tokens) // size)
            elif group.kind == "state":
                assert len(table) == 1
            own = table.tolist() if group.kind in ("state", "cross") else table.tolist()[skipped:]
            assert len(set(own)) == len(own)
            places |= {(g, block) for block in own}
        return places

    def _shared(self, new):
        skipped = new.num_computed_tokens // (self.agreement.kv_cache.block_size or 1)
        groups = self.agreement.kv_cache.groups
        kinds = {"full", "state"} if self.agreement.has("state_snapshots") else {"full"}
        assert not skipped or {group.kind for group in groups} <= kinds
        return {
            (g, b)
            for g, table in enumerate(new.block_tables)
            for b in table.tolist()[:skipped]
            if groups[g].kind == "full"
        }

    def collect(self):
        """Return the oldest step and its result, or None instead of a result if the step failed."""
        step, _ = self.steps.popleft()
        assert step.mask != "late" or step.masks is not None, "a step waits for its masks"
        for handle in step.dropped:
            del self.sequences[handle]
        for new in step.added:
            self.sequences[new.sequence] = WorkerSequence(
                new, new.tokens.tolist(), [t.tolist() for t in new.block_tables]
            )
            for place, token in zip(
                self._cross_places(new), new.encoder_tokens.tolist(), strict=False
            ):
                self.memory[place] = fingerprint(new.sequence, token)
        for group, blocks in enumerate(step.rows.new_blocks):
            for row, handle in enumerate(step.rows.sequence.tolist()):
                first, last = step.rows.new_block_ptr[group][row : row + 2]
                self.sequences[handle].tables[group] += blocks[first:last].tolist()
        if self.failures is not None and self.failures.random() < 0.03:
            if self.failures.random() < 0.5:  # a failed step may have copied blocks
                copy_states(step, self.memory)
            for handle in step.rows.sequence.tolist():
                self.sequences[handle].is_broken = True
            return step, None
        copy_states(step, self.memory)
        return step, self._run(step)

    def _run(self, step):
        rows, tokens, ptr, scores, errors = step.rows, [], [0], [], []
        allowed = allowed_tokens(step)
        cursor = 0
        for row in range(rows.num_rows):
            handle, start, count = (int(a[row]) for a in (rows.sequence, rows.start, rows.count))
            row_tokens = rows.tokens[cursor : cursor + count].tolist()
            cursor += count
            sequence = self.sequences[handle]
            print_, row_scores = self._write(sequence, start, row_tokens)
            if sequence.new.sampling.prompt_logprobs and row_scores:
                scores.append(
                    PromptScores(
                        handle,
                        max(start, 1),
                        np.array(row_scores, np.float32),
                        *top_arrays(row_scores, sequence.new.sampling.top_n_tokens),
                    )
                )
            if rows.sample[row]:
                if self.failures is not None and self.failures.random() < 0.01:
                    errors.append(RowError(handle, "row"))
                    sequence.is_broken = True
                else:
                    draws = self._draws(step, row)
                    tokens += self._choose(sequence, start + count, print_, draws, allowed.get(row))
            ptr.append(len(tokens))
        n = len(tokens)
        empty = np.empty(0, np.int32)
        logprobs = np.full(n, np.nan, np.float32)
        arrays = (
            rows.sequence,
            np.array(ptr, np.int32),
            np.array(tokens, np.int32),
            logprobs,
            empty,
            empty,
            empty,
        )
        return ModelRunnerOutput(step.step_id, *arrays, prompt_scores=scores, errors=errors)

    def _draws(self, step, row):
        """Return the draws for the tokens that a row generates. Their number is random within the
        row's token budget.
        """
        rows = step.rows
        if not len(rows.max_tokens):
            return [rows.draw[row]]
        first = int((rows.max_tokens[:row] - 1).sum())
        further = rows.extra_draw[first : first + rows.max_tokens[row] - 1].tolist()
        return [
            rows.draw[row],
            *further[: random.Random(step.step_id + row).randint(0, len(further))],
        ]

    def _choose(self, sequence, end, print_, draws, allowed):
        """Generate one token for each draw. All tokens except the last one are also written to the
        cache.
        """
        del sequence.tokens[end:]
        for draw in draws:
            if len(sequence.tokens) > end:
                print_, _ = self._write(sequence, len(sequence.tokens) - 1, sequence.tokens[-1:])
            sequence.tokens.append(choose(print_, draw, allowed))
        return sequence.tokens[end:]

    def _write(self, sequence, start, row_tokens):
        new, scores = sequence.new, []
        print_ = start_print(new.adapter, new.encoder_tokens.tolist())
        if sequence.is_broken:
            return -1, []
        for place, token in zip(self._cross_places(new), new.encoder_tokens.tolist(), strict=False):
            assert self.memory[place] == fingerprint(new.sequence, token), (
                "the encoder of another sequence overwrote a block"
            )
        for position in range(start):
            print_ = fingerprint(print_, sequence.tokens[position])
            for place in self._where(sequence, position):
                assert self.memory.get(place) == print_, (
                    f"outdated contents or those of another sequence at position {position}"
                )
        for place in self._state_places(new) if start else ():
            assert self.memory[place] == print_, "the state belongs to another sequence"
        for position, token in enumerate(row_tokens, start):
            if token == TOKEN_ON_DEVICE:
                token = sequence.tokens[position] if position < len(sequence.tokens) else 0  # noqa: PLW2901
            elif position < len(sequence.tokens):
                assert token == sequence.tokens[position], (
                    "a row contains another token than the sequence has at this position"
                )
            print_ = fingerprint(print_, token)
            for place in self._where(sequence, position):
                self.memory[place] = print_
            if 1 <= position < sequence.new.num_prompt_tokens:
                scores.append(score(print_))
        for place in self._state_places(new):
            self.memory[place] = print_
        return print_, scores

    def _state_places(self, new):
        if self.agreement.kv_cache.mode == "slots":
            return []
        return [("state", g, int(new.block_tables[g][0])) for g in state_groups(self.agreement)]

    def _cross_places(self, new):
        """Return the places of the encoder tokens in the first cross-attention group. The other
        cross-attention groups are not checked.
        """
        size = self.agreement.kv_cache.block_size
        tables = [
            (g, new.block_tables[g])
            for g, group in enumerate(self.agreement.kv_cache.groups)
            if group.kind == "cross"
        ]
        return [
            ("cross", g, int(block), offset)
            for g, table in tables[:1]
            for block in table
            for offset in range(size)
        ]

    def _where(self, sequence, position):
        plan = self.agreement.kv_cache
        if plan.mode == "slots":
            assert position < plan.sequence_slot_tokens
            return [("slot", sequence.new.sequence_slot, position)]
        paged = [g for g, group in enumerate(plan.groups) if group.kind in ("full", "window")]
        return [
            (g, sequence.tables[g][position // plan.block_size], position % plan.block_size)
            for g in paged
        ]
