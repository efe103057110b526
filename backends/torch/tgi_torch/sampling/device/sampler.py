"""Samples one token per row on a device, with the semantics of `tgi.testing.sampling`.

All operations are enqueued, and none of them depends on a value that the host would have to read.
Shapes: R rows, V tokens in the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from tgi.backend import Int32Array
from tgi.worker.step_output import NOT_FINITE, NOTHING_ALLOWED, SampledTokens
from tgi_torch.sampling.device.filters import (
    cut_atypical,
    cut_below_top_k,
    cut_outside_nucleus,
    draw_tokens,
    ordered_keys,
)
from tgi_torch.sampling.device.host_inputs import ALL_STAGES, LogprobsKind, SamplerStages
from tgi_torch.sampling.device.inputs import SamplerInputs
from tgi_torch.sampling.device.token_counts import TokenCounts
from tgi_torch.sampling.logits_processors import (
    allowed_tokens,
    cut_below_min_p,
    favour_green_tokens,
    penalize_repetition,
    vocabulary_hash,
)

__all__ = ["MAX_TOP_TOKENS", "SamplerOutputs", "read_outputs", "sample"]

MAX_TOP_TOKENS = 64
"""Maximum number of top tokens of a row, including tokens with the same score as the last one."""

_NOT_FINITE, _NOTHING_ALLOWED = 1, 2
_REASONS = {_NOT_FINITE: NOT_FINITE, _NOTHING_ALLOWED: NOTHING_ALLOWED}
_NUM_COLUMNS = 4  # token, problem, log probability, number of top tokens
_MASK32 = 0xFFFFFFFF


@final
@dataclass(frozen=True)
class SamplerOutputs:
    """The result of one step on the device.

    `packed` contains all results, so that one copy transfers them to the host. Its columns are the
    token, the problem (0 = none), the log probability, the number of top tokens, K ids and K log
    probabilities. Log probabilities are the bits of float32. K is 0 in a graph without top tokens.
    """

    tokens: Tensor  # int32 [R], the inputs of the next step; undefined for rows with a problem
    packed: Tensor  # int32 [R, 4 + 2 K]


def sample(
    logits: Tensor,  # float32 [R, V]; not changed
    inputs: SamplerInputs,
    counts: TokenCounts,
    stages: SamplerStages = ALL_STAGES,
) -> SamplerOutputs:
    """Enqueue the sampling of one token per row, and count the tokens.

    `stages` are at least the parts that the rows need.
    """
    scores = _before_warpers(logits, inputs, counts, stages)
    tokens, final_scores = scores.argmax(-1), scores
    if stages.draws:
        is_greedy = inputs.greedy != 0
        warped = _warp(scores, inputs, stages)
        drawn = draw_tokens(warped, inputs.draws.unsqueeze(-1))
        tokens = torch.where(is_greedy, tokens, drawn)
        final_scores = torch.where(is_greedy.unsqueeze(-1), scores, warped)
    tokens = tokens.int()
    if stages.penalties:
        counts.add(inputs.count_slots, tokens)
    columns = [tokens, _problems(logits, scores)]
    columns += _log_probabilities(logits, final_scores, tokens, inputs, stages)
    packed = torch.cat([column.view(len(tokens), -1) for column in columns], dim=-1)
    return SamplerOutputs(tokens, packed)


def read_outputs(packed: Int32Array, num_rows: int) -> SampledTokens:
    """Convert the host's copy of `SamplerOutputs.packed`, without its padded rows."""
    packed = packed[:num_rows]
    num_tops = (packed.shape[1] - _NUM_COLUMNS) // 2
    top_counts = packed[:, 3].copy()
    is_top = np.arange(num_tops) < top_counts[:, None]
    top_ids, top_logprobs = np.split(packed[:, _NUM_COLUMNS:], 2, axis=1)
    return SampledTokens(
        tokens=packed[:, 0].copy(),
        logprobs=packed[:, 2].copy().view(np.float32),
        top_counts=top_counts,
        top_ids=top_ids[is_top],
        top_logprobs=top_logprobs[is_top].view(np.float32),
        problems={int(row): _REASONS[int(packed[row, 1])] for row in np.flatnonzero(packed[:, 1])},
    )


def _before_warpers(
    logits: Tensor, inputs: SamplerInputs, counts: TokenCounts, stages: SamplerStages
) -> Tensor:
    """Compute the scores after watermark, bias, penalties and mask."""
    scores, vocab_size = logits, logits.shape[1]
    if stages.watermark:
        scores = favour_green_tokens(
            scores,
            vocabulary_hash(vocab_size, logits.device),
            inputs.previous.long().unsqueeze(-1),
            (inputs.watermark_last_green.long() & _MASK32).unsqueeze(-1) + 1,
            inputs.watermark_delta.unsqueeze(-1),
        )
    if stages.bias:
        index = inputs.bias_rows.long() * vocab_size + inputs.bias_tokens
        scores = scores.reshape(-1).scatter_add(0, index, inputs.bias_values).view(scores.shape)
    if stages.penalties:
        scores = _penalize(scores, inputs, counts)
    if stages.masks:
        allowed = allowed_tokens(inputs.mask_words, vocab_size)
        allowed |= (inputs.is_masked == 0).unsqueeze(-1)
        scores = torch.where(allowed, scores, float("-inf"))
    return scores


def _penalize(scores: Tensor, inputs: SamplerInputs, counts: TokenCounts) -> Tensor:
    context = counts.context.index_select(0, inputs.count_slots)
    output = counts.output.index_select(0, inputs.count_slots)
    scores = penalize_repetition(scores, context, inputs.repetition_penalty.unsqueeze(-1))
    share = context / inputs.lengths.clamp(min=1).unsqueeze(-1)
    return (
        scores
        - inputs.relative_frequency_penalty.unsqueeze(-1) * share
        - inputs.frequency_penalty.unsqueeze(-1) * output
        - inputs.presence_penalty.unsqueeze(-1) * (output > 0)
    )


def _warp(scores: Tensor, inputs: SamplerInputs, stages: SamplerStages) -> Tensor:
    """Apply temperature, top-k, top-p, typical-p and min-p.

    The keys of the scores before the temperature are used, because the division does not change the
    order of the scores, but can round different scores to equal ones.
    """
    warped = scores / inputs.temperature.unsqueeze(-1)
    if stages.top_k or stages.top_p:
        keys = ordered_keys(scores)
    if stages.top_k:
        warped = cut_below_top_k(warped, keys, inputs.top_k.unsqueeze(-1))
    if stages.top_p:
        warped = cut_outside_nucleus(warped, keys, inputs.top_p.unsqueeze(-1))
    if stages.typical_p:
        warped = cut_atypical(warped, inputs.typical_p.unsqueeze(-1))
    if stages.min_p:
        warped = cut_below_min_p(warped, inputs.min_p.unsqueeze(-1))
    return warped


def _problems(logits: Tensor, scores: Tensor) -> Tensor:
    """Return the problem of each row, int32 [R]. The maximum of a row with NaN is NaN."""
    infinity, highest = float("inf"), scores.amax(-1)
    highest_of_both = torch.maximum(logits.amax(-1), highest)
    without_token = torch.where(highest == -infinity, _NOTHING_ALLOWED, 0)
    return torch.where(highest_of_both < infinity, without_token, _NOT_FINITE).int()


def _log_probabilities(
    logits: Tensor,
    final_scores: Tensor,
    tokens: Tensor,
    inputs: SamplerInputs,
    stages: SamplerStages,
) -> list[Tensor]:
    """Return the columns for log probability and number of top tokens, and the top tokens."""
    nothing = torch.zeros_like(tokens)
    if not stages.logprobs:
        return [torch.full_like(inputs.draws, float("nan")).view(torch.int32), nothing]
    is_wanted = inputs.logprobs != LogprobsKind.NONE.value
    is_raw = (inputs.logprobs == LogprobsKind.RAW.value).unsqueeze(-1)
    source = torch.where(is_raw, logits, final_scores)
    logprobs = source.log_softmax(-1)
    chosen = logprobs.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)
    chosen = torch.where(is_wanted, chosen, float("nan")).view(torch.int32)
    if not stages.top_tokens:
        return [chosen, nothing]
    keys = ordered_keys(source)
    ids = _best_tokens(keys)
    values = logprobs.gather(-1, ids)
    keys = keys.gather(-1, ids)
    num_wanted = inputs.top_n_tokens.long().unsqueeze(-1)
    last = keys.gather(-1, (num_wanted - 1).clamp(min=0, max=ids.shape[-1] - 1))
    is_top = (keys >= last) & (values > float("-inf"))
    is_top &= (num_wanted > 0) & is_wanted.unsqueeze(-1)
    return [chosen, is_top.sum(-1, dtype=torch.int32), ids.int(), values.view(torch.int32)]


def _best_tokens(keys: Tensor) -> Tensor:
    """Return the ids of the tokens with the greatest keys, int64 [R, K], in descending order of key
    and then in ascending order of id.

    The id is a part of the value that is compared, because devices order equal values differently.
    """
    vocab_size = keys.shape[-1]
    later = torch.arange(vocab_size - 1, -1, -1, device=keys.device)
    values = (keys.long() << 32) + later
    return values.topk(min(MAX_TOP_TOKENS, vocab_size), dim=-1).indices
