"""A core that is controlled by a test.

It allocates blocks and sends steps to the worker, encoded as for another process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from tgi.backend import (
    Agreement,
    GrammarMasks,
    ModelRunnerOutput,
    NewSequence,
    RequestedLimits,
    Rows,
    SamplingParams,
    SchedulerOutput,
    Worker,
    decode,
    encode,
)

__all__ = ["LiveSequence", "RecordingReporter", "ScriptedCore", "started"]


@dataclass
class RecordingReporter:
    """Records the reports of a worker."""

    phases: list[tuple[str, int, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def progress(self, phase, done, total):
        self.phases.append((phase, done, total))

    def log(self, message):
        self.lines.append(message)


@dataclass
class LiveSequence:
    """The state of one sequence in the core."""

    tokens: list[int]
    num_prompt_tokens: int
    num_computed_tokens: int
    blocks: list[int]
    sampling: SamplingParams
    state: int = -1

    @property
    def output(self):
        return self.tokens[self.num_prompt_tokens :]


def started(worker: Worker, requested: RequestedLimits) -> ScriptedCore:
    """Start a worker and return a core for it."""
    worker.load()
    agreement = worker.negotiate(requested)
    worker.warmup()
    return ScriptedCore(worker, agreement)


class ScriptedCore:
    """Each call of `step` is one step. Free blocks are in random order."""

    def __init__(self, worker: Worker, agreement: Agreement) -> None:
        self.worker = worker
        self.agreement = agreement
        self.block_size = agreement.kv_cache.block_size
        self.live: dict[int, LiveSequence] = {}
        self._kinds = [group.kind for group in agreement.kv_cache.groups]
        self._free = list(
            range(
                min(
                    (g.num_blocks for g in agreement.kv_cache.groups if g.kind != "state"),
                    default=1000,
                )
            )
        )
        self._free_states = list(
            range(
                min(
                    (g.num_blocks for g in agreement.kv_cache.groups if g.kind == "state"),
                    default=0,
                )
            )
        )
        random.Random(0).shuffle(self._free)
        random.Random(1).shuffle(self._free_states)
        self._added: list[NewSequence] = []
        self._dropped: list[int] = []
        self._step_id = 0

    def introduce(
        self,
        handle,
        prompt,
        output=(),
        sampling=SamplingParams(),  # noqa: B008
        blocks=(),
        num_computed_tokens=None,
        encoder_tokens=(),
    ):
        """Add a sequence to the next step.

        `blocks` are its first blocks, which contain its first `num_computed_tokens` (default: all).
        """
        tokens = [*prompt, *output]
        computed = (
            len(blocks) * self.block_size if num_computed_tokens is None else num_computed_tokens
        )
        live = self.live[handle] = LiveSequence(
            tokens, len(prompt), computed, list(blocks), sampling
        )
        if "state" in self._kinds:
            live.state = self._free_states.pop()
        cross = [self._free.pop() for _ in range(-(-len(encoder_tokens) // self.block_size))]
        tables = {"full": blocks, "state": [live.state], "cross": cross}
        self._added.append(
            NewSequence(
                handle,
                f"request-{handle}",
                np.array(tokens, np.int32),
                len(prompt),
                computed,
                [np.array(tables[kind], np.int32) for kind in self._kinds],
                sampling,
                encoder_tokens=np.array(encoder_tokens, np.int32),
            )
        )

    def take_block(self):
        """Take a free block."""
        return self._free.pop()

    def drop(self, handle):
        """Drop a sequence. Its blocks are not reused, because other sequences may share them."""
        self._dropped.append(handle)
        gone = self.live.pop(handle)
        if gone.state >= 0:
            self._free_states.append(gone.state)
        return gone

    def step(self, work, draws=None, masks=None, tokens=None, copies=None) -> ModelRunnerOutput:
        """Run a step. `work` is handle -> number of tokens; 0 means all known tokens."""
        return self.run(self.build(work, draws or {}, masks, tokens or {}, copies))

    def run(self, step) -> ModelRunnerOutput:
        """Run a step."""
        self.worker.submit(step)
        output = self.worker.collect()
        for row, handle in enumerate(output.sequence.tolist()):
            sequence = self.live[handle]
            sequence.num_computed_tokens += self._counts[row]
            sequence.tokens.extend(
                output.tokens[output.token_ptr[row] : output.token_ptr[row + 1]].tolist()
            )
        return output

    def build(self, work, draws, masks=None, tokens=None, copies=None) -> SchedulerOutput:
        """Build a step, encoded and decoded."""
        starts, counts, ids, sample, pointers, blocks = [], [], [], [], [0], []
        for handle, wanted in work.items():
            sequence = self.live[handle]
            start = sequence.num_computed_tokens
            count = wanted or len(sequence.tokens) - start
            missing = -(-(start + count) // self.block_size) - len(sequence.blocks)
            new = [self._free.pop() for _ in range(missing)]
            sequence.blocks.extend(new)
            blocks.extend(new)
            pointers.append(len(blocks))
            starts.append(start)
            counts.append(count)
            ids.extend((tokens or {}).get(handle, sequence.tokens[start : start + count]))
            sample.append(start + count == len(sequence.tokens))
        self._counts = counts
        self._step_id += 1
        rows = Rows(
            sequence=np.array(list(work), np.int32),
            start=np.array(starts, np.int32),
            count=np.array(counts, np.int32),
            tokens=np.array(ids, np.int32),
            sample=np.array(sample, np.uint8),
            draw=np.array([draws.get(handle, 0.0) for handle in work], np.float32),
            new_block_ptr=[
                np.array(pointers if kind == "full" else [0] * len(pointers), np.int32)
                for kind in self._kinds
            ],
            new_blocks=[
                np.array(blocks if kind == "full" else [], np.int32) for kind in self._kinds
            ],
        )
        packed = None
        if masks is not None:
            handles = list(work)
            packed = GrammarMasks(
                self._step_id,
                np.array([handles.index(handle) for handle in masks], np.int32),
                np.concatenate(list(masks.values())),
            )
        source, target = (
            ([np.array(side, np.int32)] for side in zip(*copies, strict=True))
            if copies
            else ([], [])
        )
        step = SchedulerOutput(
            self._step_id,
            self._dropped,
            self._added,
            rows,
            source,
            target,
            "none" if masks is None else "inline",
            packed,
        )
        self._dropped, self._added = [], []
        return decode(SchedulerOutput, encode(step))
