"""The core's side of the agreement, as executable rules: the mirror of the conformance kit.

`StepRules` follows a stream of steps and raises `BrokenRuleError` for the first one that asks for
more than was agreed, hands out what somebody still has, or contradicts what was said before. It
needs no model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.backend import (
    SAMPLING_FIELDS,
    TOKEN_ON_DEVICE,
    Agreement,
    GrammarMasks,
    Int32Array,
    ModelRunnerOutput,
    NewSequence,
    Rows,
    SamplingParams,
    SchedulerOutput,
)

__all__ = ["BrokenRuleError", "StepRules"]

Place = tuple[int, int]
"""(cache group, block), or (-1, slot)."""

_DEFAULTS = SamplingParams()
_ATTRIBUTES = {
    field: "watermark_gamma" if field == "watermark" else field for field in sorted(SAMPLING_FIELDS)
}
_TOKEN_KINDS = ("full", "window")


class BrokenRuleError(AssertionError):
    """The core sent what it may not send."""


@final
@dataclass(eq=False)
class _Resident:
    """A sequence the worker was told of."""

    new: NewSequence
    end: int  # position after its last submitted token
    known: int  # tokens the worker can know by then: those sent, and those it was asked to choose
    owned: set[Place]
    shared: set[Place]
    num_blocks: list[int]  # per group
    is_prefilling: bool = True
    is_open: bool = False  # a row in flight may choose several tokens


@final
@dataclass(frozen=True)
class _InFlight:
    """A step that was sent."""

    step_id: int
    places: set[Place]  # that it touches
    opened: dict[int, _Resident]  # by handle: sequences with a row that may choose several tokens


@final
class StepRules:
    """Call `submit` with each step as it is sent and `collect` when the oldest one is done, with
    its result if it has one.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._residents: dict[int, _Resident] = {}
        self._last_step_id = -1
        self._in_flight: deque[_InFlight] = deque()
        self._unmasked: dict[
            int, Int32Array
        ] = {}  # steps whose masks have yet to come → tokens that their rows may choose

    @property
    def num_residents(self) -> int:
        """Sequences the worker would know."""
        return len(self._residents)

    def submit(self, step: SchedulerOutput) -> None:
        """Raise `BrokenRuleError` if the step breaks a rule."""
        _rule(
            step.step_id > self._last_step_id,
            f"step {step.step_id} follows step {self._last_step_id}",
        )
        self._last_step_id = step.step_id
        self._check_size(step.rows)
        self._check_budgets(step)
        self._check_masks(step)
        for handle in step.dropped:
            _rule(
                handle in self._residents, f"sequence {handle} is dropped but was never introduced"
            )
            del self._residents[handle]
        for new in step.added:
            self._introduce(new)
        _rule(
            len(self._residents) <= self._agreement.limits.max_sequences,
            f"{len(self._residents)} sequences are alive",
        )
        kinds = [self._check_row(step.rows, row) for row in range(step.rows.num_rows)]
        self._check_order(kinds)
        self._check_encoders(step)
        self._check_copies(step)
        handles = step.rows.sequence[_max_tokens(step.rows) > 1].tolist()
        opened = {handle: self._residents[handle] for handle in handles}
        self._in_flight.append(_InFlight(step.step_id, self._touched(step), opened))

    def submit_masks(self, masks: GrammarMasks) -> None:
        """Raise `BrokenRuleError` unless a step in flight waits for these masks."""
        _rule(
            masks.step_id in self._unmasked, f"masks of step {masks.step_id}, which waits for none"
        )
        self._check_words(masks, self._unmasked.pop(masks.step_id))

    def collect(self, output: ModelRunnerOutput | None = None) -> None:
        """The oldest step is done. Without its result nobody knows where its rows of several tokens
        ended.
        """
        oldest = self._in_flight.popleft()
        _rule(
            oldest.step_id not in self._unmasked,
            f"the result of step {oldest.step_id} was asked for before its masks were sent",
        )
        if output is None:
            return
        counts = dict(
            zip(output.sequence.tolist(), np.diff(output.token_ptr).tolist(), strict=True)
        )
        for handle, resident in oldest.opened.items():
            if counts[handle]:
                resident.end += counts[handle] - 1
                resident.known = resident.end + 1
                resident.is_open = False

    def _check_size(self, rows: Rows) -> None:
        limits = self._agreement.limits
        num_tokens = int(rows.count.sum())
        _rule(
            len(self._in_flight) < limits.depth, f"{len(self._in_flight) + 1} steps are in flight"
        )
        _rule(rows.num_rows <= limits.max_sequences, f"{rows.num_rows} rows")
        _rule(num_tokens == rows.num_tokens, f"{rows.num_tokens} tokens for counts of {num_tokens}")
        _rule(
            num_tokens + len(rows.draft) <= limits.max_step_tokens,
            f"{num_tokens + len(rows.draft)} tokens in a step",
        )
        _rule(
            len(set(rows.sequence.tolist())) == rows.num_rows, "a sequence has two rows in one step"
        )
        lengths = {
            len(rows.start),
            len(rows.count),
            len(rows.sample),
            len(rows.draw),
            rows.num_rows,
        }
        _rule(len(lengths) == 1, f"arrays of lengths {sorted(lengths)}")
        _rule(bool(((rows.draw >= 0) & (rows.draw < 1)).all()), "a draw outside [0, 1)")
        _rule(
            len(rows.max_tokens) == (rows.num_rows if limits.tokens_per_step > 1 else 0),
            "`max_tokens` against the agreement",
        )

    def _check_budgets(self, step: SchedulerOutput) -> None:
        """Several tokens for rows that may choose them, with a draw for each, and guesses at all
        but the last.
        """
        rows, most = step.rows, self._agreement.limits.tokens_per_step
        max_tokens = _max_tokens(rows)
        _rule(
            bool(((max_tokens >= 1) & (max_tokens <= most)).all()),
            f"rows of {max_tokens.tolist()} tokens; agreed are {most}",
        )
        _rule(
            len(rows.extra_draw) == int((max_tokens - 1).sum()),
            f"{len(rows.extra_draw)} draws for {max_tokens.tolist()} tokens",
        )
        _rule(bool(((rows.extra_draw >= 0) & (rows.extra_draw < 1)).all()), "a draw outside [0, 1)")
        begun = {new.sequence for new in step.added}
        num_draft_tokens = (
            np.diff(rows.draft_ptr) if len(rows.draft_ptr) else np.zeros(rows.num_rows, np.int32)
        )
        _rule(
            len(num_draft_tokens) == rows.num_rows
            and int(num_draft_tokens.sum()) == len(rows.draft),
            "`draft_ptr` does not fit",
        )
        _rule(not len(rows.draft) or self._agreement.has("drafts"), "drafts were not agreed")
        _rule(
            bool(((rows.draft >= 0) & (rows.draft < self._agreement.vocab_size)).all()),
            "a guess is not in the vocabulary",
        )
        for row in np.flatnonzero((max_tokens > 1) | (num_draft_tokens > 0)).tolist():
            _rule(
                rows.count[row] == 1 and bool(rows.sample[row]),
                f"several tokens for a row of {rows.count[row]} tokens",
            )
            _rule(
                int(rows.sequence[row]) not in begun,
                "several tokens for the first row of a sequence",
            )
            is_guessed = num_draft_tokens[row] == max_tokens[row] - 1
            _rule(
                is_guessed or not num_draft_tokens[row],
                f"{num_draft_tokens[row]} guesses for {max_tokens[row]} tokens",
            )
            _rule(
                bool(num_draft_tokens[row]) or self._agreement.has("multi_token"),
                "several tokens without guesses were not agreed",
            )

    def _check_masks(self, step: SchedulerOutput) -> None:
        feature = {"none": None, "inline": "mask", "late": "late_mask"}[step.mask]
        _rule(
            feature is None or self._agreement.has(feature), f"a mask ({step.mask}) was not agreed"
        )
        _rule(
            (step.masks is not None) == (step.mask == "inline"),
            f"a step with `mask` {step.mask} and masks to match",
        )
        if step.masks is not None:
            self._check_words(step.masks, _max_tokens(step.rows))
        if step.mask == "late":
            self._unmasked[step.step_id] = _max_tokens(step.rows)

    def _check_words(self, masks: GrammarMasks, max_tokens: Int32Array) -> None:
        width = -(-self._agreement.vocab_size // 32)
        _rule(masks.words.size == len(masks.row) * width, f"masks are not {width} words a row")
        rows, num_rows = masks.row.tolist(), len(max_tokens)
        _rule(
            all(0 <= row < num_rows for row in rows) and rows == sorted(rows),
            f"masks of rows {rows} of {num_rows}",
        )
        for row in set(rows):
            _rule(
                rows.count(row) == max_tokens[row],
                f"{rows.count(row)} masks for a row of {max_tokens[row]} tokens",
            )

    def _check_encoders(self, step: SchedulerOutput) -> None:
        """An encoder runs whole in the step of its sequence's first row: within the budget, or with
        that row alone.
        """
        num_tokens = sum(len(new.encoder_tokens) for new in step.added)
        if not num_tokens:
            return
        starting = {new.sequence for new in step.added if len(new.encoder_tokens)}
        _rule(
            starting <= set(step.rows.sequence.tolist()),
            "an encoder starts without a row of its sequence",
        )
        is_alone = step.rows.num_rows == 1 and len(step.added) == 1
        fits = num_tokens + step.rows.num_tokens <= self._agreement.limits.max_step_tokens
        _rule(is_alone or fits, f"{num_tokens} encoder tokens beside {step.rows.num_tokens} others")

    def _check_copies(self, step: SchedulerOutput) -> None:
        _rule(len(step.copy_source) == len(step.copy_target), "copies without a source or a target")
        _rule(
            not step.copy_source or self._agreement.has("prefix_cache"),
            "copies of blocks were not agreed",
        )
        for group, (sources, targets) in enumerate(
            zip(step.copy_source, step.copy_target, strict=True)
        ):
            _rule(
                len(sources) == len(targets), f"{len(sources)} blocks are copied to {len(targets)}"
            )
            self._fresh(group, targets.tolist())
            num_blocks = self._agreement.kv_cache.groups[group].num_blocks
            _rule(
                all(0 <= block < num_blocks for block in sources.tolist()),
                f"blocks {sources.tolist()} of {num_blocks}",
            )

    def _introduce(self, new: NewSequence) -> None:
        plan, limits = self._agreement.kv_cache, self._agreement.limits
        _rule(new.sequence not in self._residents, f"handle {new.sequence} is in use")
        _rule(
            0 < len(new.tokens) <= limits.max_total_tokens,
            f"a sequence of {len(new.tokens)} tokens",
        )
        _rule(
            0 < new.num_prompt_tokens <= len(new.tokens),
            f"a prompt of {new.num_prompt_tokens} tokens",
        )
        _rule(
            new.num_computed_tokens < len(new.tokens),
            "nothing of a new sequence is left to compute",
        )
        _rule(
            not new.num_computed_tokens or self._agreement.has("prefix_cache"),
            "a prefix hit was not agreed",
        )
        _rule(
            new.num_computed_tokens == 0 or not new.sampling.prompt_logprobs,
            "a prompt to score takes no prefix hits",
        )
        self._check_sampling(new)
        self._check_media(new)
        if plan.mode == "slots":
            _rule(
                0 <= new.sequence_slot < plan.num_sequence_slots and not new.block_tables,
                f"slot {new.sequence_slot} of {plan.num_sequence_slots}",
            )
            owned, shared = {(-1, new.sequence_slot)}, set[Place]()
        else:
            _rule(
                len(new.block_tables) == len(plan.groups), f"{len(new.block_tables)} block tables"
            )
            skipped = new.num_computed_tokens // (plan.block_size or 1)
            owned, shared = set(), set()
            for number, (group, table) in enumerate(
                zip(plan.groups, new.block_tables, strict=True)
            ):
                skip = skipped if group.kind in _TOKEN_KINDS else 0
                if group.kind == "cross":
                    needed = -(-len(new.encoder_tokens) // plan.block_size)
                    _rule(
                        0 < needed == len(table),
                        f"{len(new.encoder_tokens)} encoder tokens in {len(table)} blocks",
                    )
                shared |= {(number, block) for block in table.tolist()[:skip]}
                owned |= self._fresh(number, table.tolist()[skip:])
        self._claim(owned)
        counts = [len(table) for table in new.block_tables]
        start = new.num_computed_tokens
        self._residents[new.sequence] = _Resident(
            new, start, len(new.tokens), owned, shared, counts
        )

    def _check_sampling(self, new: NewSequence) -> None:
        sampling, agreement = new.sampling, self._agreement
        _rule(
            sampling.logprobs == "none" or agreement.has("logprobs"),
            "log probabilities were not agreed",
        )
        _rule(
            not sampling.prompt_logprobs or agreement.has("prompt_logprobs"),
            "prompt scores were not agreed",
        )
        _rule(not new.adapter or agreement.has("lora"), "adapters were not agreed")
        _rule(
            not new.is_masked or agreement.has("mask") or agreement.has("late_mask"),
            "masks were not agreed",
        )
        _rule(new.pooling == "none" or agreement.has("embeddings"), "pooling was not agreed")
        _rule(
            new.pooling == "none" or not new.num_computed_tokens,
            "a pooled sequence takes no prefix hits",
        )
        for field, attribute in _ATTRIBUTES.items():
            is_default = getattr(sampling, attribute) == getattr(_DEFAULTS, attribute)
            _rule(is_default or field in agreement.sampling, f"`{field}` was not agreed")
        for name, cap in agreement.sampling_caps.items():
            value = float(getattr(sampling, name))
            _rule(value <= cap, f"{name} {value} is above the agreed {cap}")

    def _check_media(self, new: NewSequence) -> None:
        _rule(not new.media or self._agreement.has("images"), "images were not agreed")
        end = 0
        for item in sorted(new.media, key=lambda item: item.start):
            is_inside = end <= item.start < item.start + item.length <= new.num_prompt_tokens
            _rule(
                is_inside,
                f"{item.length} placeholders from position {item.start} on overlap or leave the"
                " prompt",
            )
            end = item.start + item.length

    def _fresh(self, group: int, blocks: list[int]) -> set[Place]:
        num_blocks = self._agreement.kv_cache.groups[group].num_blocks
        _rule(all(0 <= block < num_blocks for block in blocks), f"blocks {blocks} of {num_blocks}")
        _rule(len(set(blocks)) == len(blocks), f"a block twice in {blocks}")
        return {(group, block) for block in blocks}

    def _claim(self, places: set[Place]) -> None:
        """Nobody alive has them to write into, nobody reads them, no step in flight touches
        them.
        """
        if not places:
            return
        held = set().union(
            *((resident.owned | resident.shared) for resident in self._residents.values())
        )
        _rule(not places & held, f"{sorted(places & held)} belong to another sequence")
        in_use = set().union(*(step.places for step in self._in_flight))
        _rule(not places & in_use, f"{sorted(places & in_use)} are used by a step in flight")

    def _check_row(self, rows: Rows, row: int) -> bool:
        """Whether the row is a prefill."""
        limits = self._agreement.limits
        handle, start, count = int(rows.sequence[row]), int(rows.start[row]), int(rows.count[row])
        _rule(handle in self._residents, f"a row of sequence {handle}, which was not introduced")
        resident = self._residents[handle]
        _rule(
            not resident.is_open,
            f"a row of sequence {handle} follows one of several tokens, whose end is not known",
        )
        _rule(start == resident.end, f"sequence {handle} goes on at {start}, not at {resident.end}")
        _rule(count > 0, f"an empty row of sequence {handle}")
        end = start + count
        max_end = end + int(_max_tokens(rows)[row]) - 1
        _rule(max_end <= limits.max_total_tokens, f"sequence {handle} gets {max_end} tokens")
        is_prefill = resident.is_prefilling
        if is_prefill and end < len(resident.new.tokens):
            is_whole = (
                count == limits.max_step_tokens
            )  # a resumed sequence that is longer than a step
            _rule(limits.chunked or is_whole, f"a prefill chunk of {count} tokens was not agreed")
            _rule(
                not limits.chunked or count % limits.chunk_multiple == 0,
                f"a prefill chunk of {count} tokens",
            )
        _rule(is_prefill or count == 1, f"a decode row of {count} tokens")
        first = int(rows.count[:row].sum())
        self._check_tokens(resident, start, rows.tokens[first : first + count].tolist())
        self._grow(rows, row, resident, max_end)
        resident.end, resident.is_open = end, max_end > end
        resident.is_prefilling = is_prefill and limits.chunked and end < len(resident.new.tokens)
        if rows.sample[row]:
            _rule(resident.new.pooling == "none", f"a token of the pooled sequence {handle}")
            _rule(
                end >= resident.known,
                f"a token after position {end - 1} of sequence {handle}, which is known",
            )
            resident.known = end + 1
        return is_prefill

    def _check_tokens(self, resident: _Resident, start: int, tokens: list[int]) -> None:
        for position, token in enumerate(tokens, start):
            if token == TOKEN_ON_DEVICE:
                _rule(self._agreement.has("device_token"), "a token on the device was not agreed")
                _rule(
                    position >= len(resident.new.tokens),
                    "a token that was sent stands for one on the device",
                )
            else:
                _rule(
                    0 <= token < self._agreement.vocab_size,
                    f"token {token} is not in the vocabulary",
                )
                is_new = position >= len(resident.new.tokens)
                _rule(
                    is_new or token == int(resident.new.tokens[position]),
                    f"another token at position {position}",
                )
            _rule(
                position < resident.known,
                f"position {position} follows a token that was never chosen",
            )

    def _grow(self, rows: Rows, row: int, resident: _Resident, end: int) -> None:
        plan = self._agreement.kv_cache
        if plan.mode == "slots":
            _rule(
                end <= plan.sequence_slot_tokens,
                f"{end} tokens in a slot of {plan.sequence_slot_tokens}",
            )
            return
        for number, group in enumerate(plan.groups):
            first, last = rows.new_block_ptr[number][row : row + 2].tolist()
            blocks = self._fresh(number, rows.new_blocks[number].tolist()[first:last])
            self._claim(blocks)
            resident.owned |= blocks
            resident.num_blocks[number] += len(blocks)
            needed = -(-end // plan.block_size) if group.kind in _TOKEN_KINDS else 1
            _rule(
                resident.num_blocks[number] >= needed,
                f"{end} tokens in {resident.num_blocks[number]} blocks",
            )

    def _check_order(self, kinds: list[bool]) -> None:
        limits = self._agreement.limits
        if limits.decode_rows_first:
            _rule(kinds == sorted(kinds), "a prefill row stands before a decode row")
        _rule(
            not limits.max_prefills or sum(kinds) <= limits.max_prefills,
            f"{sum(kinds)} prefill rows",
        )
        _rule(limits.mixed or len(set(kinds)) < 2, "prefill and decode rows in one step")

    def _touched(self, step: SchedulerOutput) -> set[Place]:
        residents = [self._residents[handle] for handle in step.rows.sequence.tolist()]
        return set().union(*((resident.owned | resident.shared) for resident in residents))


def _max_tokens(rows: Rows) -> Int32Array:
    """Tokens that each row may choose, [n]."""
    return (
        rows.max_tokens
        if len(rows.max_tokens) == rows.num_rows
        else np.ones(rows.num_rows, np.int32)
    )


def _rule(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise BrokenRuleError(f"The core broke the agreement: {message}.")
