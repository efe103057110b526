"""The worker of the null backend."""

from __future__ import annotations

import math
import os
import random
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import final

import msgspec
import numpy as np
import numpy.typing as npt

from tgi.backend import (
    API_VERSION,
    SAMPLING_FIELDS,
    Agreement,
    BackendError,
    CacheGroup,
    Control,
    ControlResult,
    EngineConfig,
    GrammarMasks,
    Health,
    KVCachePlan,
    Limits,
    MemoryItem,
    ModelRunnerOutput,
    NewSequence,
    PromptScores,
    RequestedLimits,
    RowError,
    SchedulerOutput,
    StepError,
    StepTimes,
    WorkerReporter,
)
from tgi.testing.doubles.null_script import NullFailure, NullScript
from tgi.worker.negotiation import with_requested_features
from tgi.worker.step_output import NOTHING_ALLOWED
from tgi.worker.step_result import row_masks

__all__ = ["NullWorker"]

_LOGPROB = -0.5  # log probability of every token; each alternative is 0.5 below the previous one
_EXIT_STATUS = 3
_PROGRESS_SECONDS = 0.2
_MEMORY_BYTES = 1 << 22  # that a scripted failure takes at once


@final
@dataclass
class _Sequence:
    new: NewSequence
    num_own_outputs: int = 0  # output tokens since the sequence was introduced

    @property
    def num_outputs(self) -> int:
        """Number of output tokens, including those before a preemption or a restart."""
        return len(self.new.tokens) - self.new.num_prompt_tokens + self.num_own_outputs


@final
class NullWorker:
    """Computes the result of every step from the script."""

    def __init__(self, config: EngineConfig, script: NullScript, reporter: WorkerReporter) -> None:
        self._vocab_size = config.spec.vocab_size
        self._script = script
        self._reporter = reporter
        self._sequences: dict[int, _Sequence] = {}
        self._steps: deque[SchedulerOutput] = deque()
        self._strikes: Counter[NullFailure] = Counter()
        self._compile_seconds = script.compile_seconds  # remaining time of the compilation

    def load(self) -> None:
        """Do not load a model. Raises `BackendError` if the script contains a load failure."""
        if self._script.start_failure:
            raise BackendError(self._script.start_failure)
        remaining = self._script.load_seconds
        while remaining > 0:
            self._reporter.progress("load", 0, 1)
            time.sleep(min(_PROGRESS_SECONDS, remaining))
            remaining -= _PROGRESS_SECONDS
        self._reporter.progress("load", 1, 1)

    def negotiate(self, requested: RequestedLimits) -> Agreement:
        """Return the requested limits, or the limits of the script if none are requested."""
        script = self._script
        model_limit = requested.model_max_total_tokens or script.max_total_tokens
        limits = Limits(
            max_total_tokens=requested.max_total_tokens
            or min(script.max_total_tokens, model_limit),
            max_sequences=requested.max_batch_size or script.max_sequences,
            max_step_tokens=requested.max_batch_prefill_tokens or script.max_step_tokens,
            mixed=script.mixed,
            chunked=script.chunked,
            depth=script.depth,
            tokens_per_step=script.tokens_per_step,
        )
        agreement = Agreement(
            api=API_VERSION,
            features=tuple(
                f for f in script.features if script.mode == "paged" or f != "prefix_cache"
            ),
            limits=limits,
            kv_cache=self._plan(requested, limits),
            vocab_size=self._vocab_size,
            sampling=tuple(name for name in script.sampling if name in SAMPLING_FIELDS),
            sampling_caps=script.sampling_caps,
            memory=(MemoryItem("weights", 0, "none"), MemoryItem("KV cache", 0, "none")),
            facts={"dtype": "none", "attention": "none"},
        )
        return with_requested_features(agreement, requested)

    def warmup(self) -> None:
        """Clear the state."""
        self._reporter.progress("warmup", 1, 1)

    def submit(self, step: SchedulerOutput | GrammarMasks) -> None:
        """Queue a step, or add late masks to a queued step. The result of a step is computed when
        it is collected.
        """
        if isinstance(step, SchedulerOutput):
            self._steps.append(step)
            return
        for place, queued in enumerate(self._steps):
            if queued.step_id == step.step_id:
                self._steps[place] = msgspec.structs.replace(queued, masks=step)

    def collect(self) -> ModelRunnerOutput | None:
        """Return the result of the oldest step."""
        step = self._steps.popleft()
        for sequence in step.dropped:
            del self._sequences[sequence]
        for new in step.added:
            self._sequences[new.sequence] = _Sequence(new)
        if step.rows.num_rows:
            self._compile()
            # this condition is necessary, because `sleep(0)` may also take time
            if self._script.step_seconds:
                time.sleep(self._script.step_seconds)
        return self._run(step, self._jump(step))

    def control(self, request: Control) -> ControlResult:
        """Accept the requests that the script lists. These requests have no effect."""
        if request.name not in self._script.controls:
            return ControlResult(False, f"the null backend has no control `{request.name}`")
        time.sleep(self._script.control_seconds)
        return ControlResult(True)

    def health(self, deep: bool) -> Health:
        """Report that the worker is healthy."""
        del deep
        return Health(True)

    def close(self) -> None:
        """Drop all sequences and steps."""
        self._sequences.clear()
        self._steps.clear()

    def _compile(self) -> None:
        """Simulate compilation. Progress is reported frequently, because the engine client would
        otherwise assume that the engine hangs.
        """
        while self._compile_seconds > 0:
            self._reporter.progress("compile", 0, 0)
            time.sleep(min(_PROGRESS_SECONDS, self._compile_seconds))
            self._compile_seconds -= _PROGRESS_SECONDS

    def _jump(self, step: SchedulerOutput) -> random.Random | None:
        """Draw the random events of a step: a delay, a crash or a failure. Returns the generator,
        or None if the script has no random events.
        """
        jumps = self._script.jumps
        if jumps is None or not step.rows.num_rows:
            return None
        rng = random.Random(  # noqa: S311
            f"{jumps.seed} {step.step_id} {step.rows.start.sum()} {len(step.added)}"
        )
        if jumps.max_seconds:
            time.sleep(jumps.max_seconds * rng.random())
        if rng.random() < jumps.crashes:
            raise RuntimeError("random death")
        if rng.random() < jumps.step_failures:
            raise StepError("random step failure", retryable=True)
        return rng

    def _plan(self, requested: RequestedLimits, limits: Limits) -> KVCachePlan:
        script = self._script
        if script.mode == "slots":
            return KVCachePlan(
                "slots",
                num_sequence_slots=limits.max_sequences,
                sequence_slot_tokens=limits.max_total_tokens,
            )
        num_blocks = math.ceil((requested.max_batch_total_tokens or 0) / script.block_size)
        return KVCachePlan(
            "paged", script.block_size, (CacheGroup("full", num_blocks or script.num_blocks),)
        )

    def _run(self, step: SchedulerOutput, rng: random.Random | None) -> ModelRunnerOutput:
        rows, errors, scores = step.rows, list[RowError](), list[PromptScores]()
        masks = {} if step.mask == "none" else row_masks(step, self._vocab_size)
        failed = self._strikes_of(step) | self._failed_by_chance(step, rng)
        budgets = rows.max_tokens.tolist() or [1] * rows.num_rows
        tokens: list[int] = []
        token_ptr, top_ptr, top_ids, top_logprobs = [0], [0], list[int](), list[float]()
        for row in range(rows.num_rows):
            handle = int(rows.sequence[row])
            sequence = self._sequences[handle]
            scores.extend(self._prompt_scores(sequence, int(rows.start[row]), int(rows.count[row])))
            if rows.sample[row]:
                allowed = np.flatnonzero(masks[row][0]) if row in masks else None
                if handle in failed:
                    errors.append(RowError(handle, "scripted row failure"))
                    budgets[row] = 0
                elif allowed is not None and not len(allowed):
                    errors.append(RowError(handle, NOTHING_ALLOWED))
                    budgets[row] = 0
                for _ in range(
                    budgets[row] if rng is None else rng.randint(min(1, budgets[row]), budgets[row])
                ):
                    token = (
                        self._token(sequence)
                        if allowed is None
                        else _random_token(allowed, float(rows.draw[row]), sequence.num_outputs)
                    )
                    tokens.append(token)
                    sequence.num_own_outputs += 1
                    top_n = sequence.new.sampling.top_n_tokens
                    top_ids.extend((token + i) % self._vocab_size for i in range(top_n))
                    top_logprobs.extend(_LOGPROB * (i + 1) for i in range(top_n))
                    top_ptr.append(len(top_ids))
            token_ptr.append(len(tokens))
        return ModelRunnerOutput(
            step_id=step.step_id,
            sequence=rows.sequence,
            token_ptr=np.array(token_ptr, np.int32),
            tokens=np.array(tokens, np.int32),
            logprobs=np.full(len(tokens), _LOGPROB, np.float32),
            top_ptr=np.array(top_ptr, np.int32),
            top_ids=np.array(top_ids, np.int32),
            top_logprobs=np.array(top_logprobs, np.float32),
            prompt_scores=scores,
            errors=errors,
            times=StepTimes(forward=1),
            shape="null",
        )

    def _token(self, sequence: _Sequence) -> int:
        prompt = sequence.new.tokens[: sequence.new.num_prompt_tokens]
        script = self._script.tokens or prompt
        return int(script[sequence.num_outputs % len(script)])

    def _prompt_scores(self, sequence: _Sequence, start: int, count: int) -> list[PromptScores]:
        if not sequence.new.sampling.prompt_logprobs:
            return []
        first, last = max(start, 1), min(start + count, sequence.new.num_prompt_tokens)
        if first >= last:
            return []
        ranks = np.arange(sequence.new.sampling.top_n_tokens)
        ids = (sequence.new.tokens[first:last, None] + ranks) % self._vocab_size
        return [
            PromptScores(
                sequence.new.sequence,
                first,
                np.full(last - first, _LOGPROB, np.float32),
                ids.astype(np.int32).reshape(-1),
                np.tile(_LOGPROB * (ranks + 1), last - first).astype(np.float32),
            )
        ]

    def _failed_by_chance(self, step: SchedulerOutput, rng: random.Random | None) -> set[int]:
        if rng is None or self._script.jumps is None:
            return set()
        handles = step.rows.sequence[step.rows.sample == 1].tolist()
        return {handle for handle in handles if rng.random() < self._script.jumps.row_failures}

    def _strikes_of(self, step: SchedulerOutput) -> set[int]:
        """Return the sequences whose rows fail in this step. Failures of the whole step or of the
        process are raised before a row has had an effect.
        """
        failed = set()
        for handle in step.rows.sequence[step.rows.sample == 1].tolist():
            sequence = self._sequences[handle]
            prompt = sequence.new.tokens[: sequence.new.num_prompt_tokens]
            for failure in self._script.failures:
                is_due = failure.after == sequence.num_own_outputs and failure.token in prompt
                if is_due and self._strikes[failure] < failure.times:
                    self._strikes[failure] += 1
                    _raise_failure(failure)
                    failed.add(handle)
        return failed


def _random_token(allowed: npt.NDArray[np.intp], draw: float, num_outputs: int) -> int:
    """Return one of the token ids `allowed` [n]. Greedy rows have the draw 0."""
    rng = random.Random(f"{draw} {num_outputs}")  # noqa: S311 - not a secret
    return int(allowed[rng.randrange(len(allowed))])


def _raise_failure(failure: NullFailure) -> None:
    match failure.kind:
        case "step":
            raise StepError("scripted step failure", retryable=True)
        case "broken":
            raise StepError("scripted step failure", retryable=False)
        case "raise":
            raise RuntimeError("scripted exception")
        case "exit":
            os._exit(_EXIT_STATUS)
        case "memory":
            taken = []
            while True:
                taken.append(bytearray(_MEMORY_BYTES))
