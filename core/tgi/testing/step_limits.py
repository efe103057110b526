"""The rules for a step that depend only on the negotiated limits and the step itself."""

from __future__ import annotations

import numpy as np

from tgi.backend import (
    SAMPLING_FIELDS,
    Agreement,
    GrammarMasks,
    Int32Array,
    NewSequence,
    Rows,
    SamplingParams,
    SchedulerOutput,
)

__all__ = [
    "BrokenRuleError",
    "Place",
    "check_budgets",
    "check_copies",
    "check_encoders",
    "check_media",
    "check_order",
    "check_sampling",
    "check_words",
    "max_tokens_of",
    "named_blocks",
    "require_rule",
]

Place = tuple[int, int]
"""(cache group, block), or (-1, sequence slot)."""

_DEFAULTS = SamplingParams()
_ATTRIBUTES = {
    field: "watermark_gamma" if field == "watermark" else field for field in sorted(SAMPLING_FIELDS)
}


class BrokenRuleError(AssertionError):
    """The core violated a rule."""


def max_tokens_of(rows: Rows) -> Int32Array:
    """The maximum number of tokens that each row may sample, int32 [rows]."""
    return (
        rows.max_tokens
        if len(rows.max_tokens) == rows.num_rows
        else np.ones(rows.num_rows, np.int32)
    )


def require_rule(holds: bool | np.bool_, message: str) -> None:
    """Raise `BrokenRuleError` if `holds` is False."""
    if not holds:
        raise BrokenRuleError(f"The core violated a rule: {message}.")


def check_budgets(agreement: Agreement, step: SchedulerOutput) -> None:
    """Check rows that may sample several tokens.

    Only decode rows may sample several tokens, and they have one draw for each token. A row with
    draft tokens has one draft token for each of its tokens except the last one.
    """
    rows, most = step.rows, agreement.limits.tokens_per_step
    max_tokens = max_tokens_of(rows)
    require_rule(
        bool(((max_tokens >= 1) & (max_tokens <= most)).all()),
        f"rows of {max_tokens.tolist()} tokens; the maximum is {most}",
    )
    require_rule(
        len(rows.extra_draw) == int((max_tokens - 1).sum()),
        f"{len(rows.extra_draw)} draws for {max_tokens.tolist()} tokens",
    )
    require_rule(
        bool(((rows.extra_draw >= 0) & (rows.extra_draw < 1)).all()), "a draw outside [0, 1)"
    )
    begun = {new.sequence for new in step.added}
    num_draft_tokens = (
        np.diff(rows.draft_ptr) if len(rows.draft_ptr) else np.zeros(rows.num_rows, np.int32)
    )
    require_rule(
        len(num_draft_tokens) == rows.num_rows and int(num_draft_tokens.sum()) == len(rows.draft),
        "`draft_ptr` does not match the rows",
    )
    require_rule(not len(rows.draft) or agreement.has("drafts"), "drafts were not negotiated")
    require_rule(
        bool(((rows.draft >= 0) & (rows.draft < agreement.vocab_size)).all()),
        "a draft token is not in the vocabulary",
    )
    for row in np.flatnonzero((max_tokens > 1) | (num_draft_tokens > 0)).tolist():
        require_rule(
            rows.count[row] == 1 and bool(rows.sample[row]),
            f"several tokens for a row of {rows.count[row]} tokens",
        )
        require_rule(
            int(rows.sequence[row]) not in begun,
            "several tokens for the first row of a sequence",
        )
        is_guessed = num_draft_tokens[row] == max_tokens[row] - 1
        require_rule(
            is_guessed or not num_draft_tokens[row],
            f"{num_draft_tokens[row]} draft tokens for {max_tokens[row]} tokens",
        )
        require_rule(
            bool(num_draft_tokens[row]) or agreement.has("multi_token"),
            "several tokens without draft tokens were not negotiated",
        )


def check_words(agreement: Agreement, masks: GrammarMasks, max_tokens: Int32Array) -> None:
    """Check that the masks match the vocabulary and the rows of the step.

    Rows must be in ascending order. Each masked row needs one mask for each token that may be
    sampled (`max_tokens`, [rows]).
    """
    width = -(-agreement.vocab_size // 32)
    require_rule(masks.words.size == len(masks.row) * width, f"masks are not {width} words a row")
    rows, num_rows = masks.row.tolist(), len(max_tokens)
    require_rule(
        all(0 <= row < num_rows for row in rows) and rows == sorted(rows),
        f"masks of rows {rows} of {num_rows}",
    )
    for row in set(rows):
        require_rule(
            rows.count(row) == max_tokens[row],
            f"{rows.count(row)} masks for a row of {max_tokens[row]} tokens",
        )


def check_encoders(agreement: Agreement, step: SchedulerOutput) -> None:
    """Check the encoders of a step.

    An encoder runs in the step with the first row of its sequence. The encoder's tokens must be
    within the step's budget, unless the step has only this row.
    """
    num_tokens = sum(len(new.encoder_tokens) for new in step.added)
    if not num_tokens:
        return
    starting = {new.sequence for new in step.added if len(new.encoder_tokens)}
    require_rule(
        starting <= set(step.rows.sequence.tolist()),
        "an encoder starts without a row of its sequence",
    )
    is_alone = step.rows.num_rows == 1 and len(step.added) == 1
    fits = num_tokens + step.rows.num_tokens <= agreement.limits.max_step_tokens
    require_rule(
        is_alone or fits, f"{num_tokens} encoder tokens beside {step.rows.num_tokens} others"
    )


def check_copies(agreement: Agreement, step: SchedulerOutput) -> None:
    """Check that blocks are copied only if the prefix cache was negotiated, that they are given as
    pairs, and that they exist.
    """
    require_rule(
        len(step.copy_source) == len(step.copy_target), "copies without a source or a target"
    )
    require_rule(
        not step.copy_source or agreement.has("prefix_cache"),
        "copies of blocks were not negotiated",
    )
    for group, (sources, targets) in enumerate(
        zip(step.copy_source, step.copy_target, strict=True)
    ):
        require_rule(
            len(sources) == len(targets), f"{len(sources)} blocks are copied to {len(targets)}"
        )
        named_blocks(agreement, group, targets.tolist())
        num_blocks = agreement.kv_cache.groups[group].num_blocks
        require_rule(
            all(0 <= block < num_blocks for block in sources.tolist()),
            f"blocks {sources.tolist()} of {num_blocks}",
        )


def check_sampling(agreement: Agreement, new: NewSequence) -> None:
    """Check that a sequence requests only negotiated features and sampling fields."""
    sampling = new.sampling
    require_rule(
        sampling.logprobs == "none" or agreement.has("logprobs"),
        "log probabilities were not negotiated",
    )
    require_rule(
        not sampling.prompt_logprobs or agreement.has("prompt_logprobs"),
        "prompt scores were not negotiated",
    )
    require_rule(not new.adapter or agreement.has("lora"), "adapters were not negotiated")
    require_rule(
        not new.is_masked or agreement.has("mask") or agreement.has("late_mask"),
        "masks were not negotiated",
    )
    require_rule(new.pooling == "none" or agreement.has("embeddings"), "pooling was not negotiated")
    require_rule(
        new.pooling == "none" or not new.num_computed_tokens,
        "a pooled sequence must not use prefix hits",
    )
    for field, attribute in _ATTRIBUTES.items():
        is_default = getattr(sampling, attribute) == getattr(_DEFAULTS, attribute)
        require_rule(is_default or field in agreement.sampling, f"`{field}` was not negotiated")
    for name, cap in agreement.sampling_caps.items():
        value = float(getattr(sampling, name))
        require_rule(value <= cap, f"{name} {value} is above the negotiated {cap}")


def check_media(agreement: Agreement, new: NewSequence) -> None:
    """Check that the placeholders of media are inside the prompt and do not overlap."""
    require_rule(not new.media or agreement.has("images"), "images were not negotiated")
    end = 0
    for item in sorted(new.media, key=lambda item: item.start):
        is_inside = end <= item.start < item.start + item.length <= new.num_prompt_tokens
        require_rule(
            is_inside,
            f"{item.length} placeholders from position {item.start} on overlap or leave the prompt",
        )
        end = item.start + item.length


def named_blocks(agreement: Agreement, group: int, blocks: list[int]) -> set[Place]:
    """Return the blocks as places in cache group `group`.

    Checks that every block exists and that no block is named twice.
    """
    num_blocks = agreement.kv_cache.groups[group].num_blocks
    require_rule(
        all(0 <= block < num_blocks for block in blocks), f"blocks {blocks} of {num_blocks}"
    )
    require_rule(len(set(blocks)) == len(blocks), f"a block twice in {blocks}")
    return {(group, block) for block in blocks}


def check_order(agreement: Agreement, kinds: list[bool]) -> None:
    """Check the order of rows and the number of prefills.

    `kinds` contains for each row whether it is a prefill.
    """
    limits = agreement.limits
    if limits.decode_rows_first:
        require_rule(kinds == sorted(kinds), "a prefill row comes before a decode row")
    require_rule(
        not limits.max_prefills or sum(kinds) <= limits.max_prefills,
        f"{sum(kinds)} prefill rows",
    )
    require_rule(limits.mixed or len(set(kinds)) < 2, "prefill and decode rows in one step")
