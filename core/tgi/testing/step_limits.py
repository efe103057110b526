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
    "TOKEN_KINDS",
    "BrokenRuleError",
    "Place",
    "blocks_of_new_sequence",
    "check_budgets",
    "check_encoders",
    "check_media",
    "check_order",
    "check_sampling",
    "check_words",
    "max_tokens_of",
    "named_blocks",
    "num_masks_of",
    "require_rule",
]

Place = tuple[int, int]
"""A pair (cache group, block), or a pair (-1, sequence slot)."""

TOKEN_KINDS = ("full", "window")
"""The kinds of cache groups in which each block stores `block_size` tokens."""

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
    """Raise `BrokenRuleError` if `holds` is False. `message` is a sentence without its period."""
    if not holds:
        raise BrokenRuleError(f"The core violated a rule: {message}.")


def check_budgets(agreement: Agreement, step: SchedulerOutput) -> None:
    """Check rows that may sample several tokens.

    Only decode rows may sample several tokens, and they have one draw for each token. A row with
    draft tokens has one draft token for each of its tokens except the last one.
    """
    rows, maximum = step.rows, agreement.limits.tokens_per_step
    max_tokens = max_tokens_of(rows)
    require_rule(
        bool(((max_tokens >= 1) & (max_tokens <= maximum)).all()),
        f"The values of `max_tokens` are {max_tokens.tolist()}, but 1 to {maximum} are allowed",
    )
    num_draws = int((max_tokens - 1).sum())
    require_rule(
        len(rows.extra_draw) == num_draws,
        f"`extra_draw` has {len(rows.extra_draw)} draws, but the step needs {num_draws}",
    )
    require_rule(
        bool(((rows.extra_draw >= 0) & (rows.extra_draw < 1)).all()),
        "A value of `extra_draw` is not in [0, 1)",
    )
    begun = {new.sequence for new in step.added}
    num_draft_tokens = (
        np.diff(rows.draft_ptr) if len(rows.draft_ptr) else np.zeros(rows.num_rows, np.int32)
    )
    require_rule(
        len(num_draft_tokens) == rows.num_rows and int(num_draft_tokens.sum()) == len(rows.draft),
        "`draft_ptr` does not match the rows and the draft tokens of the step",
    )
    require_rule(
        not len(rows.draft) or agreement.has("drafts"),
        "A step has draft tokens, but the feature `drafts` was not negotiated",
    )
    require_rule(
        bool(((rows.draft >= 0) & (rows.draft < agreement.vocab_size)).all()),
        f"A draft token is not in the vocabulary of {agreement.vocab_size} ids",
    )
    for row in np.flatnonzero((max_tokens > 1) | (num_draft_tokens > 0)).tolist():
        require_rule(
            rows.count[row] == 1 and bool(rows.sample[row]),
            "Only a row of 1 token with `sample` 1 may sample several tokens, but row"
            f" {row} has {rows.count[row]} tokens and `sample` {rows.sample[row]}",
        )
        require_rule(
            int(rows.sequence[row]) not in begun,
            f"Row {row} may sample several tokens, but it is the first row of its sequence",
        )
        is_drafted = num_draft_tokens[row] == max_tokens[row] - 1
        require_rule(
            is_drafted or not num_draft_tokens[row],
            f"Row {row} has {num_draft_tokens[row]} draft tokens and `max_tokens`"
            f" {max_tokens[row]}, but `max_tokens` must be one more than the draft tokens",
        )
        require_rule(
            bool(num_draft_tokens[row]) or agreement.has("multi_token"),
            f"Row {row} may sample several tokens without draft tokens, but the feature"
            " `multi_token` was not negotiated",
        )


def num_masks_of(rows: Rows, is_masked: list[bool]) -> Int32Array:
    """The number of masks of each row if it is constrained, int32 [rows]. A row that samples no
    token and a row of a sequence without `NewSequence.is_masked` have no mask. `is_masked` [rows]
    is this field of the rows' sequences.

    Only the core can determine which rows are constrained. A masked sequence may sample tokens
    without a mask while its grammar allows every token.
    """
    max_tokens = max_tokens_of(rows)
    has_draft_tokens = (
        np.diff(rows.draft_ptr) > 0 if len(rows.draft_ptr) else np.zeros(rows.num_rows, np.bool_)
    )
    masked = np.array(is_masked, np.bool_)
    require_rule(
        not (masked & (max_tokens > 1) & ~has_draft_tokens).any(),
        "A row of a masked sequence may sample several tokens without draft tokens, but only the"
        " mask of its first token is known",
    )
    num_masks: Int32Array = max_tokens * rows.sample * masked
    return num_masks


def check_words(agreement: Agreement, masks: GrammarMasks, num_masks: Int32Array) -> None:
    """Check that the masks match the vocabulary and the rows of the step.

    Rows must be in ascending order. Each constrained row needs one mask for each token that may be
    sampled (`num_masks`, [rows], see `num_masks_of`). A mask allows at least one token, and no id
    outside the vocabulary.
    """
    width = -(-agreement.vocab_size // 32)
    require_rule(
        masks.words.size == len(masks.row) * width,
        f"{len(masks.row)} masks have {masks.words.size} words, but a mask must have {width} words",
    )
    rows, num_rows = masks.row.tolist(), len(num_masks)
    require_rule(
        all(0 <= row < num_rows for row in rows) and rows == sorted(rows),
        f"The masks are for the rows {rows}. The rows must be in ascending order and below"
        f" {num_rows}",
    )
    for row in set(rows):
        require_rule(
            rows.count(row) == num_masks[row],
            f"Row {row} has {rows.count(row)} masks, but it may sample {num_masks[row]} tokens of a"
            " masked sequence and needs one mask for each of them",
        )
    bits = np.unpackbits(
        np.ascontiguousarray(masks.words).view(np.uint8).reshape(-1, 4 * width),
        axis=1,
        bitorder="little",
    )
    require_rule(bool(bits[:, : agreement.vocab_size].any(axis=1).all()), "A mask allows no token")
    require_rule(
        not bits[:, agreement.vocab_size :].any(),
        f"A mask allows an id outside the vocabulary of {agreement.vocab_size} ids",
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
        "An encoder runs in a step without a row of its sequence",
    )
    is_alone = step.rows.num_rows == 1 and len(step.added) == 1
    fits = num_tokens + step.rows.num_tokens <= agreement.limits.max_step_tokens
    require_rule(
        is_alone or fits,
        f"A step has {num_tokens} encoder tokens and {step.rows.num_tokens} other tokens, but at"
        f" most {agreement.limits.max_step_tokens} tokens were negotiated",
    )


def check_sampling(agreement: Agreement, new: NewSequence) -> None:
    """Check that a sequence requests only negotiated features and sampling fields."""
    sampling = new.sampling
    require_rule(
        sampling.logprobs == "none" or agreement.has("logprobs"),
        "A sequence requests log probabilities, but the feature `logprobs` was not negotiated",
    )
    require_rule(
        not sampling.prompt_logprobs or agreement.has("prompt_logprobs"),
        "A sequence requests the log probabilities of its prompt, but the feature"
        " `prompt_logprobs` was not negotiated",
    )
    require_rule(
        not new.adapter or agreement.has("lora"),
        "A sequence uses an adapter, but the feature `lora` was not negotiated",
    )
    require_rule(
        not new.is_masked or agreement.has("mask") or agreement.has("late_mask"),
        "A sequence uses masks, but neither the feature `mask` nor `late_mask` was negotiated",
    )
    require_rule(
        new.pooling == "none" or agreement.has("embeddings"),
        "A sequence is pooled, but the feature `embeddings` was not negotiated",
    )
    require_rule(
        new.pooling == "none" or not new.num_computed_tokens,
        "A pooled sequence uses a cached prefix",
    )
    for field, attribute in _ATTRIBUTES.items():
        is_default = getattr(sampling, attribute) == getattr(_DEFAULTS, attribute)
        require_rule(
            is_default or field in agreement.sampling,
            f"A sequence uses the sampling field `{field}`, which was not negotiated",
        )
    for name, cap in agreement.sampling_caps.items():
        value = float(getattr(sampling, name))
        require_rule(
            value <= cap, f"The sampling field `{name}` is {value}; the negotiated maximum is {cap}"
        )


def check_media(agreement: Agreement, new: NewSequence) -> None:
    """Check that the placeholders of media are inside the prompt and do not overlap."""
    require_rule(
        not new.media or agreement.has("images"),
        "A sequence has images, but the feature `images` was not negotiated",
    )
    end = 0
    for item in sorted(new.media, key=lambda item: item.start):
        is_inside = end <= item.start < item.start + item.length <= new.num_prompt_tokens
        require_rule(
            is_inside,
            f"A medium fills the {item.length} positions from {item.start} on, which overlap"
            " another medium or are outside the prompt",
        )
        end = item.start + item.length


def named_blocks(agreement: Agreement, group: int, blocks: list[int]) -> set[Place]:
    """Return the blocks as pairs (cache group, block).

    Checks that every block exists and that no block occurs twice.
    """
    num_blocks = agreement.kv_cache.groups[group].num_blocks
    require_rule(
        all(0 <= block < num_blocks for block in blocks),
        f"A step uses the blocks {blocks}, but cache group {group} has {num_blocks} blocks",
    )
    require_rule(
        len(set(blocks)) == len(blocks), f"A block occurs twice in the list of blocks {blocks}"
    )
    return {(group, block) for block in blocks}


def blocks_of_new_sequence(agreement: Agreement, new: NewSequence) -> tuple[set[Place], set[Place]]:
    """Check the blocks or the slot of a new sequence.

    Returns the places that belong to the sequence, and the blocks of its cached prefix, which other
    sequences may use too.
    """
    plan = agreement.kv_cache
    if plan.mode == "slots":
        require_rule(
            0 <= new.sequence_slot < plan.num_sequence_slots,
            f"A new sequence has the sequence slot {new.sequence_slot}, but only the slots below"
            f" {plan.num_sequence_slots} exist",
        )
        require_rule(not new.block_tables, "A new sequence has block tables in slots mode")
        return {(-1, new.sequence_slot)}, set()
    require_rule(
        len(new.block_tables) == len(plan.groups),
        f"A new sequence has {len(new.block_tables)} block tables, but there are"
        f" {len(plan.groups)} cache groups",
    )
    skipped = new.num_computed_tokens // (plan.block_size or 1)
    owned, shared = set[Place](), set[Place]()
    for number, (group, table) in enumerate(zip(plan.groups, new.block_tables, strict=True)):
        skip = skipped if group.kind in TOKEN_KINDS else 0
        if group.kind == "cross":
            needed = -(-len(new.encoder_tokens) // plan.block_size)
            require_rule(
                needed > 0, "A sequence has no encoder tokens, but the model has an encoder"
            )
            require_rule(
                needed == len(table),
                f"A sequence with {len(new.encoder_tokens)} encoder tokens has a `cross` block"
                f" table of {len(table)} blocks, but it needs {needed}",
            )
        shared |= {(number, block) for block in table.tolist()[:skip]}
        owned |= named_blocks(agreement, number, table.tolist()[skip:])
    return owned, shared


def check_order(agreement: Agreement, kinds: list[bool]) -> None:
    """Check the order of rows and the number of prefills.

    `kinds` contains for each row whether it is a prefill.
    """
    limits = agreement.limits
    if limits.decode_rows_first:
        require_rule(
            kinds == sorted(kinds),
            "A prefill row comes before a decode row, but `decode_rows_first` was negotiated",
        )
    require_rule(
        not limits.max_prefills or sum(kinds) <= limits.max_prefills,
        f"A step has {sum(kinds)} prefill rows, but at most {limits.max_prefills} were negotiated",
    )
    require_rule(
        limits.mixed or len(set(kinds)) < 2,
        "A step has prefill and decode rows, but mixed steps were not negotiated",
    )
