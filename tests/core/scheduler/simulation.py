"""A worker whose keys and values can be checked, and a driver that runs the scheduler against it.

The worker keeps, per block and offset, a fingerprint of all tokens up to that position. A row that
finds another fingerprint before its start was given a stale or foreign block. The chosen token is a
pure function of the tokens so far, the encoder's included, and the draw.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from tgi.backend import (
    TOKEN_ON_DEVICE,
    Agreement,
    CacheGroup,
    KVCachePlan,
    Limits,
    ModelRunnerOutput,
    NewSequence,
    PromptScores,
    RowError,
    SamplingParams,
    SchedulerOutput,
)
from tgi.scheduler import Request, Scheduler, SchedulerConfig, SequenceOutput
from tgi.scheduler.draw import uniform_draws
from tgi.types import FinishReason

VOCAB_SIZE = 11
FEATURES = ("device_token", "prefix_cache", "prompt_logprobs", "logprobs")
GREEDY = SamplingParams()
DRAWN = SamplingParams(greedy=False)
SCORED = SamplingParams(prompt_logprobs=True)


def fingerprint(before, token):
    return hash((before, token))


def start_print(adapter, encoder_tokens):
    """The fingerprint before the first token."""
    return fingerprint(adapter, tuple(encoder_tokens)) if len(encoder_tokens) else adapter


def choose(print_, draw):
    return (hash((print_, round(float(draw) * 2**24))) & 0xFFFF) % VOCAB_SIZE


def score(print_):
    return -float(print_ & 0xFF)


def make_agreement(
    mode="paged", num_blocks=16, block_size=4, groups=None, features=FEATURES, **limits
):
    limits = {"max_total_tokens": 48, "max_sequences": 6, "max_step_tokens": 16, **limits}
    if mode == "slots":
        plan = KVCachePlan(
            "slots",
            num_sequence_slots=limits["max_sequences"],
            sequence_slot_tokens=limits["max_total_tokens"],
        )
    else:
        plan = KVCachePlan("paged", block_size, groups or (CacheGroup("full", num_blocks),))
    return Agreement((1, 0), features, Limits(**limits), plan, VOCAB_SIZE, ())


def run_alone(request: Request, resumed: list[int], max_total_tokens: int):
    """Output tokens, finish reason and prompt scores of a request without any scheduler; `resumed`
    are the output tokens of an earlier engine.
    """
    print_, scores = start_print(request.adapter, request.encoder_token_ids), []
    for token in [*request.prompt_token_ids, *resumed]:
        print_ = fingerprint(print_, token)
        if len(scores) < len(request.prompt_token_ids):
            scores.append(score(print_) if scores else None)
    tokens = list(resumed)
    longest = min(request.max_new_tokens, max_total_tokens - len(request.prompt_token_ids))
    while len(tokens) < longest:
        draw = 0.0
        if not request.sampling.greedy:
            draw = uniform_draws(
                np.array([request.seed], np.uint64), np.array([len(tokens)], np.uint64)
            )[0]
        tokens.append(choose(print_, draw))
        print_ = fingerprint(print_, tokens[-1])
        if len(tokens) < longest and tokens[-1] in request.eos_token_ids:
            return tokens, FinishReason.EOS_TOKEN, scores
    return tokens, FinishReason.LENGTH, scores


def open_handles(rows):
    """Handles of the rows that may choose several tokens."""
    return set(rows.sequence[rows.max_tokens > 1].tolist()) if len(rows.max_tokens) else set()


@dataclass
class Resident:
    new: NewSequence
    tokens: list[int]
    tables: list[list[int]]
    # a row of it failed; rows already in flight find garbage, and nobody may believe their result
    is_broken: bool = False


@dataclass
class CheckingWorker:
    """Checks each step against the agreement when it is submitted, and runs it when it is
    collected.
    """

    agreement: Agreement
    failures: random.Random | None = None
    residents: dict[int, Resident] = field(default_factory=dict)
    steps: deque = field(default_factory=deque)  # (step, places it uses)
    memory: dict = field(default_factory=dict)
    places: dict[int, set] = field(default_factory=dict)  # by handle, as of the last submitted step
    num_known: dict[int, int] = field(
        default_factory=dict
    )  # by handle: tokens a sequence was introduced with
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
            assert not fresh & in_use, "a block or slot of a step in flight was handed out"
            self.places[new.sequence] = fresh | self._shared(new)
            self.num_known[new.sequence] = len(new.tokens)
        for group, blocks in enumerate(rows.new_blocks):
            assert rows.new_block_ptr[group][-1] == len(blocks)
            assert not {(group, block) for block in blocks.tolist()} & in_use, (
                "a block of a step in flight was handed out"
            )
            for row, handle in enumerate(rows.sequence.tolist()):
                first, last = rows.new_block_ptr[group][row : row + 2]
                self.places[handle] |= {(group, block) for block in blocks[first:last].tolist()}
        assert len(self.places) <= limits.max_sequences
        self._check_rows(step)
        self._check_encoders(step)
        self.steps.append(
            (step, set().union(*(self.places[handle] for handle in rows.sequence.tolist())))
        )

    def _check_budgets(self, step):
        """Several tokens for rows of one alone, no more than agreed, and no row after one whose end
        is not known.
        """
        rows, begun = step.rows, {new.sequence for new in step.added}
        num_budgets = rows.num_rows if self.agreement.limits.tokens_per_step > 1 else 0
        assert len(rows.max_tokens) == num_budgets
        assert int((rows.max_tokens - 1).sum()) == len(rows.extra_draw)
        open_rows = set()
        for each in [*(earlier for earlier, _ in self.steps), step]:
            open_rows -= {
                new.sequence for new in each.added
            }  # a handle that came back means another sequence
            open_rows |= set() if each is step else open_handles(each.rows)
        assert not open_rows & set(rows.sequence.tolist()), "a row follows one that is open"
        if num_budgets:
            assert (rows.max_tokens >= 1).all()
            assert (rows.max_tokens <= self.agreement.limits.tokens_per_step).all()
            assert (rows.count[rows.max_tokens > 1] == 1).all()
            assert (rows.sample[rows.max_tokens > 1] == 1).all()
            assert not open_handles(rows) & begun
            assert self.agreement.has("multi_token") or not open_handles(rows)

    def _check_rows(self, step):
        limits, rows = self.agreement.limits, step.rows
        # What a sequence was introduced with is prefilled, in rows of any length; without chunks,
        # replayed in decode rows too.
        handles, starts = rows.sequence.tolist(), rows.start.tolist()
        begun = {new.sequence for new in step.added}
        is_prefill = [
            start < self.num_known[handle] if limits.chunked else handle in begun
            for handle, start in zip(handles, starts, strict=True)
        ]
        assert is_prefill == sorted(is_prefill), "decode rows come first"
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
        """An encoder runs whole with its first row, within the budget unless the step is its
        own.
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
        resident = self.residents.get(int(step.rows.sequence[row]))
        return resident is None or int(step.rows.start[row]) < len(resident.new.tokens)

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
        assert not skipped or all(group.kind == "full" for group in self.agreement.kv_cache.groups)
        return {
            (g, b) for g, table in enumerate(new.block_tables) for b in table.tolist()[:skipped]
        }

    def collect(self):
        """The step and its result; None = it failed as a whole."""
        step, _ = self.steps.popleft()
        for handle in step.dropped:
            del self.residents[handle]
        for new in step.added:
            self.residents[new.sequence] = Resident(
                new, new.tokens.tolist(), [t.tolist() for t in new.block_tables]
            )
            for place, token in zip(
                self._cross_places(new), new.encoder_tokens.tolist(), strict=False
            ):
                self.memory[place] = fingerprint(new.sequence, token)
        for group, blocks in enumerate(step.rows.new_blocks):
            for row, handle in enumerate(step.rows.sequence.tolist()):
                first, last = step.rows.new_block_ptr[group][row : row + 2]
                self.residents[handle].tables[group] += blocks[first:last].tolist()
        if self.failures is not None and self.failures.random() < 0.03:
            for handle in step.rows.sequence.tolist():
                self.residents[handle].is_broken = True
            return step, None
        return step, self._run(step)

    def _run(self, step):
        rows, tokens, ptr, scores, errors = step.rows, [], [0], [], []
        cursor = 0
        for row in range(rows.num_rows):
            handle, start, count = (int(a[row]) for a in (rows.sequence, rows.start, rows.count))
            given = rows.tokens[cursor : cursor + count].tolist()
            cursor += count
            resident = self.residents[handle]
            print_, row_scores = self._write(resident, start, given)
            if resident.new.sampling.prompt_logprobs and row_scores:
                scores.append(PromptScores(handle, max(start, 1), np.array(row_scores, np.float32)))
            if rows.sample[row]:
                if self.failures is not None and self.failures.random() < 0.01:
                    errors.append(RowError(handle, "row"))
                    resident.is_broken = True
                else:
                    tokens += self._choose(resident, start + count, print_, self._draws(step, row))
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
        """As many as it will choose tokens: any number within the budget."""
        rows = step.rows
        if not len(rows.max_tokens):
            return [rows.draw[row]]
        first = int((rows.max_tokens[:row] - 1).sum())
        further = rows.extra_draw[first : first + rows.max_tokens[row] - 1].tolist()
        return [
            rows.draw[row],
            *further[: random.Random(step.step_id + row).randint(0, len(further))],
        ]

    def _choose(self, resident, end, print_, draws):
        """A token for each draw; all but the last are written."""
        del resident.tokens[end:]
        for draw in draws:
            if len(resident.tokens) > end:
                print_, _ = self._write(resident, len(resident.tokens) - 1, resident.tokens[-1:])
            resident.tokens.append(choose(print_, draw))
        return resident.tokens[end:]

    def _write(self, resident, start, given):
        new, scores = resident.new, []
        print_ = start_print(new.adapter, new.encoder_tokens.tolist())
        if resident.is_broken:
            return -1, []
        for place, token in zip(self._cross_places(new), new.encoder_tokens.tolist(), strict=False):
            assert self.memory[place] == fingerprint(new.sequence, token), (
                "another encoder wrote here"
            )
        for position in range(start):
            print_ = fingerprint(print_, resident.tokens[position])
            for place in self._where(resident, position):
                assert self.memory.get(place) == print_, (
                    f"stale or foreign content at position {position}"
                )
        for place in self._state_places(new) if start else ():
            assert self.memory[place] == print_, "the state is not that of this sequence"
        for position, token in enumerate(given, start):
            if token == TOKEN_ON_DEVICE:
                token = resident.tokens[position] if position < len(resident.tokens) else 0  # noqa: PLW2901
            elif position < len(resident.tokens):
                assert token == resident.tokens[position], (
                    "a row carries another token than the sequence has there"
                )
            print_ = fingerprint(print_, token)
            for place in self._where(resident, position):
                self.memory[place] = print_
            if 1 <= position < resident.new.num_prompt_tokens:
                scores.append(score(print_))
        for place in self._state_places(new):
            self.memory[place] = print_
        return print_, scores

    def _state_places(self, new):
        groups = enumerate(self.agreement.kv_cache.groups)
        return [
            ("state", g, int(new.block_tables[g][0]))
            for g, group in groups
            if group.kind == "state"
        ]

    def _cross_places(self, new):
        """Where the encoder's tokens are, group after group; only the first group is looked at."""
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

    def _where(self, resident, position):
        plan = self.agreement.kv_cache
        if plan.mode == "slots":
            assert position < plan.sequence_slot_tokens
            return [("slot", resident.new.sequence_slot, position)]
        paged = [g for g, group in enumerate(plan.groups) if group.kind in ("full", "window")]
        return [
            (g, resident.tables[g][position // plan.block_size], position % plan.block_size)
            for g in paged
        ]


@dataclass
class Stream:
    request: Request
    resumed: list[int]
    tokens: list[int] = field(default_factory=list)
    scores: list = field(default_factory=list)
    end: SequenceOutput | None = None
    is_aborted: bool = False


class Simulation:
    """A scheduler, a worker, and what the front would have received."""

    def __init__(self, agreement, config=None, failures=None):
        self.agreement = agreement
        self.now = 0
        self.scheduler = Scheduler(
            agreement, config or SchedulerConfig(), clock=lambda: self.now, hash_key=b"k" * 32
        )
        self.scheduler.load_adapter(1, b"one")
        self.worker = CheckingWorker(agreement, failures)
        self.streams: dict[int, Stream] = {}
        self.steps: list[SchedulerOutput] = []

    def add(self, prompt, max_new_tokens=8, **kwargs):
        sequence_id = len(self.streams)
        resumed = kwargs.pop("output_token_ids", [])
        request = Request(
            "r",
            list(prompt),
            kwargs.pop("sampling", GREEDY),
            kwargs.pop("seed", 0),
            max_new_tokens,
            **kwargs,
        )
        self.streams[sequence_id] = Stream(request, resumed, list(resumed))
        refused = self.scheduler.add(sequence_id, request, resumed)
        if refused is not None:
            self._receive([refused])
        return sequence_id

    def abort(self, sequence_id):
        self.streams[sequence_id].is_aborted = True
        self.scheduler.abort(sequence_id)

    def submit(self):
        step = self.scheduler.schedule()
        self.scheduler.check()
        if step is not None:
            self.steps.append(step)
            self.worker.submit(step)
        return step

    def collect(self, retryable=True):
        step, output = self.worker.collect()
        if output is None:
            self._receive(self.scheduler.fail_step(step.step_id, "step", retryable))
        else:
            self._receive(self.scheduler.update(output))
        self.scheduler.check()
        return step

    def step(self):
        """Fill the pipeline, then collect one step. Returns the steps submitted."""
        self.now += 1
        submitted = []
        while (
            len(self.worker.steps) < self.agreement.limits.depth
            and (step := self.submit()) is not None
        ):
            submitted.append(step)
        if self.worker.steps:
            self.collect()
        else:
            assert not self.scheduler.has_work, "work is left but nothing can run"
        return submitted

    def run(self, limit=3000):
        for _ in range(limit):
            if not self.scheduler.has_work and not self.worker.steps:
                return
            self.step()
        raise AssertionError("the work does not end")

    def _receive(self, outputs):
        for output in outputs:
            stream = self.streams[output.sequence_id]
            assert not stream.is_aborted, "news of an aborted sequence"
            assert stream.end is None, "news after the end"
            stream.tokens += output.token_ids
            stream.scores += output.prompt_logprobs
            if output.finish_reason is not None or output.error is not None:
                stream.end = output

    def assert_ended_as_alone(self):
        """Every stream has one end, and what it received is what it would have received alone."""
        stats = self.scheduler.stats()
        plan = self.agreement.kv_cache
        token_groups = [
            group.num_blocks for group in plan.groups if group.kind in ("full", "window")
        ]
        states = [group.num_blocks for group in plan.groups if group.kind == "state"]
        total = plan.num_sequence_slots if plan.mode == "slots" else min(token_groups or states)
        assert (stats.num_waiting, stats.num_running, stats.num_free_blocks) == (0, 0, total)
        assert stats.num_used_tokens == 0
        assert not self.worker.residents
        for stream in self.streams.values():
            assert (stream.end is None) == stream.is_aborted or stream.is_aborted
            if stream.end is not None and stream.end.error is not None and not stream.tokens:
                continue
            tokens, reason, scores = run_alone(
                stream.request, stream.resumed, self.agreement.limits.max_total_tokens
            )
            assert stream.tokens == tokens[: len(stream.tokens)]
            if stream.request.sampling.prompt_logprobs and not stream.resumed:
                assert stream.scores == scores[: len(stream.scores)]
            if stream.end is not None and stream.end.error is None:
                assert (stream.tokens, stream.end.finish_reason) == (tokens, reason)
                if stream.request.sampling.prompt_logprobs and not stream.resumed:
                    assert stream.scores == scores
