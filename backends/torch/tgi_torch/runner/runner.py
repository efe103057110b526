"""Runs one step: applies its changes, computes the rows, samples tokens and builds the output.

A step is processed in this order: drops, additions, copies of blocks and states, rows. The progress
of a sequence is recorded only after its forward pass, so that a failed step does not change the
progress. The core drops the sequences of a failed step and introduces them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tgi.backend import (
    Float32Array,
    Int32Array,
    Limits,
    ModelRunnerOutput,
    PromptScores,
    SchedulerOutput,
    StepTimes,
    empty_float32,
    empty_int32,
)
from tgi.worker.cache_layout import group_kinds
from tgi.worker.sequences import SequenceTable
from tgi.worker.step_checks import check_size, mask_words
from tgi.worker.step_output import SampledTokens, empty_output, step_output
from tgi_torch.model.protocols import Model
from tgi_torch.runner.decode_steps import DecodeProgram, DecodeSteps
from tgi_torch.runner.input_batch import InputBatch, build_input_batch
from tgi_torch.sampling.protocols import SampledSequence, TokenSampler

__all__ = ["ModelRunner"]

_SCORED_LOGITS = 1 << 23  # maximum number of logits in memory while prompts are scored: 32 MB


@final
class ModelRunner:
    """Runs the steps of one model and owns the state of its sequences. Only one thread calls the
    runner, with one step at a time.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        sampler: TokenSampler,
        decode_program: DecodeProgram | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        *,
        scored_logits: int = _SCORED_LOGITS,
    ) -> None:
        """`scored_logits` is the maximum number of logits in memory while prompts are scored. The
        positions of a long prompt are scored in several parts.
        """
        self._model = model
        self._limits = limits
        self._sampler = sampler
        self._device = model.device
        self._clock = clock
        self._vocab_size = model.spec.vocab_size
        self._score_rows = max(1, scored_logits // model.spec.vocab_size)
        self._kinds = group_kinds(model.spec)
        self.sequences = SequenceTable(limits, model.block_size, model.spec.vocab_size, self._kinds)
        self._decode_steps = (
            None if decode_program is None else DecodeSteps(decode_program, self.sequences, clock)
        )

    def run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step. Raises `StepError` if the step exceeds the negotiated limits."""
        began = self._clock()
        rows = step.rows
        self._change_sequences(step)
        check_size(rows, self._limits)
        if not rows.num_rows:
            return empty_output(step, [], StepTimes(prepare=self._clock() - began))
        output = None if self._decode_steps is None else self._decode_steps.run(step, began)
        return self._run_rows(step, began) if output is None else output

    def drop(self, handle: int) -> None:
        """Remove a sequence and the state that the model keeps for it."""
        if self._decode_steps is not None:
            self._decode_steps.forget()
        state = self.sequences.drop(handle)
        if state is not None:
            self._model.release_state(state)

    def _change_sequences(self, step: SchedulerOutput) -> None:
        """Process the drops, additions and block copies of a step."""
        for handle in step.dropped:
            self.drop(handle)
        for new in step.added:
            self.sequences.add(new)
        if step.copy_source:
            self._copy(step)

    def _copy(self, step: SchedulerOutput) -> None:
        """Copy blocks of tokens and states, before the rows run."""
        operations = {"full": self._model.copy_blocks, "state": self._model.copy_states}
        for kind, *sides in zip(self._kinds, step.copy_source, step.copy_target, strict=True):
            if len(sides[0]):
                sources, targets = (
                    torch.from_numpy(side.astype(np.int64)).to(self._device) for side in sides
                )
                operations[kind](sources, targets)

    @torch.inference_mode()
    def _run_rows(self, step: SchedulerOutput, began: int) -> ModelRunnerOutput:
        """Run rows of any kind."""
        rows = step.rows
        sampled = np.flatnonzero(rows.sample)
        mask = self._mask(step, sampled)
        batch = build_input_batch(rows, self.sequences, self._device)
        prepared = self._clock()
        wanted = self._wanted(batch, sampled)
        if self.sequences.has_scored_prompts:
            hidden = self._model.forward(batch.token_ids, batch.metadata)
            scores = self._score_prompts(batch, hidden)
            hidden = hidden if wanted is None else hidden.index_select(0, wanted)
        else:
            hidden, scores = self._model.forward(batch.token_ids, batch.metadata, wanted), []
        logits = self._model.logits(hidden) if len(sampled) else None
        self.sequences.num_computed_tokens[batch.layout.indices] = batch.layout.lengths
        computed = self._clock()
        chosen = None if logits is None else self._sample(batch, logits, sampled, rows.draw, mask)
        times = StepTimes(
            prepare=prepared - began, forward=computed - prepared, sample=self._clock() - computed
        )
        return (
            empty_output(step, scores, times)
            if chosen is None
            else step_output(step, chosen, sampled, scores, times)
        )

    def _wanted(self, batch: InputBatch, sampled: npt.NDArray[np.int64]) -> Tensor | None:
        """Return the index of each sampled row's last token, int64, or None for all tokens."""
        if len(sampled) == len(batch.token_ids):
            return None
        return torch.from_numpy(batch.layout.ends[sampled] - 1).to(self._device)

    def _sample(
        self,
        batch: InputBatch,
        logits: Tensor,
        sampled: npt.NDArray[np.int64],
        draws: Float32Array,
        mask: tuple[list[int], Int32Array] | None,
    ) -> SampledTokens:
        sequences: list[SampledSequence] = [*batch.layout.states]
        indices, lengths = batch.layout.indices, batch.layout.lengths
        if len(sampled) < len(sequences):
            sequences = [sequences[row] for row in sampled.tolist()]
            indices, lengths, draws = indices[sampled], lengths[sampled], draws[sampled]
        chosen = self._sampler.sample(logits, sequences, lengths.tolist(), draws, mask)
        # In the next step, `TOKEN_ON_DEVICE` refers to these tokens.
        self.sequences.tokens[indices, lengths] = chosen.tokens
        return chosen

    def _mask(
        self, step: SchedulerOutput, sampled: npt.NDArray[np.int64]
    ) -> tuple[list[int], Int32Array] | None:
        """Return the masks of sampled rows, with the rows' indices among the sampled rows."""
        masks = mask_words(step, self._vocab_size)
        if masks is None:
            return None
        rows, words = masks
        place = {row: i for i, row in enumerate(sampled.tolist())}
        wanted = [i for i, row in enumerate(rows.tolist()) if row in place]
        if not wanted:
            return None
        return [place[int(rows[i])] for i in wanted], words[wanted]

    def _score_prompts(self, batch: InputBatch, hidden: Tensor) -> list[PromptScores]:
        """Return the raw logprobs and the top tokens of the prompt positions in this step, for the
        sequences that request them.
        """
        scores = list[PromptScores]()
        layout = batch.layout
        for row, state in enumerate(layout.states):
            start, length = int(layout.starts[row]), int(layout.lengths[row])
            if not state.sampling.prompt_logprobs or start >= state.num_prompt_tokens:
                continue
            own = hidden[int(layout.ends[row]) - (length - start) : int(layout.ends[row])]
            last = min(length, state.num_prompt_tokens)
            # The hidden vector of position p - 1 scores the token at position p. For the first
            # token of a chunk, this vector is from the preceding chunk.
            before = [] if state.prompt_tail is None else [state.prompt_tail.unsqueeze(0)]
            first = start + 1 - len(before)
            state.prompt_tail = own[-1].clone() if length < state.num_prompt_tokens else None
            if first < last:
                vectors = torch.cat([*before, own[: last - start - 1]])
                logprobs, top_ids, top_logprobs = self._logprobs(
                    vectors, state.tokens[first:last], state.sampling.top_n_tokens
                )
                scores.append(PromptScores(state.handle, first, logprobs, top_ids, top_logprobs))
        return scores

    def _logprobs(
        self, hidden: Tensor, token_ids: Int32Array, num_tops: int
    ) -> tuple[Float32Array, Int32Array, Float32Array]:
        """Return the raw logprobs of `token_ids` [n], each given the hidden vector in the same row
        of `hidden` [n, hidden_size], and the ids and logprobs of the top tokens [n * num_tops].
        """
        targets = torch.from_numpy(token_ids.astype(np.int64)).to(self._device).unsqueeze(1)
        num_tops = min(num_tops, self._vocab_size)
        parts, tops = list[Tensor](), list[torch.return_types.topk]()
        for vectors, ids in zip(
            torch.split(hidden, self._score_rows),
            torch.split(targets, self._score_rows),
            strict=True,
        ):
            distribution = self._model.logits(vectors).log_softmax(-1)
            parts.append(distribution.gather(1, ids).squeeze(1))
            if num_tops:
                tops.append(distribution.topk(num_tops, dim=-1))
        logprobs: Float32Array = torch.cat(parts).cpu().numpy()
        if not tops:
            return logprobs, empty_int32(), empty_float32()
        top_ids = torch.cat([top.indices for top in tops]).to(torch.int32)
        top_logprobs = torch.cat([top.values for top in tops])
        return logprobs, top_ids.flatten().cpu().numpy(), top_logprobs.flatten().cpu().numpy()
