"""The records of one step: plain data without tensors or objects of the core.

Records are positional (`array_like`) and append-only. A new field is added at the end and has a
default. An older worker can therefore read the records of a newer core, and a newer core can read
the records of an older worker. Array fields are contiguous little-endian numpy arrays. The type
alias of a field (`Int32Array`, `Float32Array`) gives the dtype. The comment on the field gives the
shape.

The fields called `sequence` contain handles. A handle is a small number that identifies a sequence
in the worker. The core chooses the handle when it introduces the sequence, and reuses it only after
the sequence was dropped.

A worker processes a `SchedulerOutput` in this order: `dropped`, `added`, copies of blocks, rows.
All sources are read before any target is written. If a step fails, the core assumes nothing about
the content of the targets.

**Snapshots of states** (feature `state_snapshots`). A block of a cache group `state` contains the
state of all recurrent layers after the computed tokens of one sequence. The core copies such blocks
in two cases:

* A snapshot is taken in the step with a sequence's next row. The sequence's block is copied to a
  block that belongs to no sequence.
* A snapshot is restored in the step that introduces a sequence with `num_computed_tokens` above 0.
  The snapshot is copied to the sequence's block, and the first row continues from this state. A
  worker clears the state of a sequence only if the first row starts at position 0.

A copy is bit-equal to its source.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = [
    "TOKEN_ON_DEVICE",
    "Float32Array",
    "GrammarMasks",
    "Int32Array",
    "LogprobsMode",
    "MediaInput",
    "ModelRunnerOutput",
    "NewSequence",
    "PooledVector",
    "Pooling",
    "PromptScores",
    "Record",
    "RowError",
    "Rows",
    "SamplingParams",
    "SchedulerOutput",
    "StepTimes",
    "UInt8Array",
    "empty_float32",
    "empty_int32",
]

TOKEN_ON_DEVICE = -1
"""A placeholder in `Rows.tokens` for the token that the worker sampled last for the sequence
(feature `device_token`).
"""

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
LogprobsMode = Literal["none", "processed", "raw"]
Pooling = Literal["none", "first", "last", "mean"]


def empty_int32() -> Int32Array:
    """Return an int32 array of length 0."""
    return np.empty(0, np.int32)


def empty_float32() -> Float32Array:
    """Return a float32 array of length 0."""
    return np.empty(0, np.float32)


class Record(msgspec.Struct, array_like=True, frozen=True):
    """Base class of all records of the backend interface."""


class SamplingParams(Record, frozen=True):
    """The parameters with which the tokens of one sequence are sampled. Logits processors are
    applied in the order of the fields.

    The order and the formulas are those of TGI 3 `utils/logits_process.py` (flash models). Unlike
    in TGI, the result for a sequence does not depend on the other sequences in the batch. The
    OpenAI penalties follow the OpenAI API reference.
    """

    greedy: bool = True
    watermark_gamma: float = 0.0  # 0 = no watermark
    watermark_delta: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0  # over prompt and output ids
    # As in TGI, penalty x count / length is subtracted. Count and length refer to the prompt and
    # output ids together.
    relative_frequency_penalty: float = 0.0
    frequency_penalty: float = 0.0  # OpenAI: minus penalty x count, over output ids
    presence_penalty: float = 0.0  # OpenAI: minus penalty if present, over output ids
    temperature: float = 1.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    typical_p: float = 1.0  # 1 = off
    min_p: float = 0.0  # 0 = off
    logprobs: LogprobsMode = "none"
    top_n_tokens: int = 0  # per output token and, with `prompt_logprobs`, per prompt token
    prompt_logprobs: bool = False  # raw log-softmax of every prompt token


class MediaInput(Record, frozen=True):
    """One preprocessed image or audio clip and the placeholder positions that it fills (feature
    `images`).

    At positions `start` … `start + length - 1` the model reads one vector of the medium per
    position, and the token ids at these positions have no effect. A prefill chunk may begin or end
    inside this range of positions. The media of one sequence do not overlap, and all of them are in
    its prompt. Each `NewSequence` contains all media of its sequence, even if the sequence was
    introduced before.
    """

    kind: str  # the name in the model's preprocessing, for example "image"
    start: int  # first placeholder position in the sequence's tokens
    length: int
    pixels: npt.NDArray[np.float32]  # any shape that the model defines


class NewSequence(Record, frozen=True):
    """Introduces a sequence with all its data: at its first step, and again after a preemption or
    an engine restart.

    `adapter` is the number under which an adapter was loaded (`Control`), or 0 for the base model.
    If the adapter is not loaded, the worker returns a `RowError` for the sequence. Other sequences
    are unaffected.

    If `pooling` is not "none" (feature `embeddings`), no tokens are sampled for the sequence, so
    `sample` is 0 in all its rows. The row with its last token returns one `PooledVector`. A pooled
    sequence uses no cached prefix.
    """

    sequence: int  # handle
    request_id: str  # for logs only
    tokens: Int32Array  # [prompt + output so far]
    num_prompt_tokens: int
    # Above 0 only with feature `prefix_cache`. If there are `state` groups, `state_snapshots` is
    # required too, and the step copies a snapshot to the sequence's block.
    num_computed_tokens: int
    block_tables: list[Int32Array]  # one per cache group; empty in slots mode
    sampling: SamplingParams
    sequence_slot: int = -1
    max_total_tokens: int = 0
    adapter: int = 0
    is_masked: bool = False  # constrained by a grammar
    media: list[MediaInput] = []
    encoder_tokens: Int32Array = msgspec.field(default_factory=empty_int32)
    # The returned vector, taken after the last norm: the vector of the first or the last token, or
    # the mean over all tokens.
    pooling: Pooling = "none"


class Rows(Record, frozen=True):
    """The work of one step: n rows, with one array per field.

    **More than one token** (`Limits.tokens_per_step` > 1). A row that samples returns at least one
    token and at most `max_tokens`. `max_tokens` is above 1 only for rows of one token that are not
    the first row of their sequence. Token i is sampled with draw i, given all preceding tokens. The
    result is therefore the same as that of i + 1 rows of one token each. When the step is
    collected, all returned tokens except the last one are computed, and the sequence continues at
    position `start + (number of returned tokens)`. Its blocks cover the positions up to `start +
    max_tokens - 1` from this step on. The core does not know the next position before it collects
    the step, so it submits no other row of the sequence until then.

    Without drafts the worker may generate the tokens in any way, and may return fewer than
    `max_tokens` (feature `multi_token`). With drafts (feature `drafts`) the row contains draft
    tokens, and `max_tokens` is one more than their number. The worker runs the draft tokens in the
    same forward pass. A draft token is accepted if it equals the token that is chosen at its
    position. The first token that differs from its draft token ends the row, so the accepted draft
    tokens and one more token are returned. Draft tokens count towards `Limits.max_step_tokens`.
    """

    sequence: Int32Array  # [n] handles
    start: Int32Array  # [n] position of the row's first token
    count: Int32Array  # [n] number of tokens in the row
    tokens: Int32Array  # [sum(count)]
    sample: UInt8Array  # [n] 1 if a token is sampled after the row's last token, else 0
    draw: Float32Array  # [n] uniform draw in [0, 1) of a row that samples
    new_block_ptr: list[Int32Array]  # per cache group: [n + 1]
    # Per cache group: [new_block_ptr[-1]] blocks that this step appends to the rows' tables.
    new_blocks: list[Int32Array]
    # [n] at least 1, or empty if one token per step was negotiated.
    max_tokens: Int32Array = msgspec.field(default_factory=empty_int32)
    # [sum(max_tokens - 1)] draws of the tokens after the first one of each row.
    extra_draw: Float32Array = msgspec.field(default_factory=empty_float32)
    # [n + 1], or empty if no row has draft tokens.
    draft_ptr: Int32Array = msgspec.field(default_factory=empty_int32)
    # [draft_ptr[-1]] draft tokens of the rows.
    draft: Int32Array = msgspec.field(default_factory=empty_int32)

    @property
    def num_rows(self) -> int:
        """Number of rows in the step."""
        return len(self.sequence)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the step, without draft tokens."""
        return len(self.tokens)


class GrammarMasks(Record, frozen=True):
    """The allowed tokens of constrained rows (features `mask`, `late_mask`). A word has the bits of
    32 tokens, and the lowest bit belongs to the lowest id.

    A row has one mask for each token that may be sampled. Without drafts only the mask of the first
    token can be computed, so `max_tokens` of a constrained row is 1. The masks of a row are
    consecutive. The first mask applies to the first token. Mask i + 1 applies to the token after
    draft token i. It is used only if draft token i is accepted.

    Each mask allows at least one token. A row without a mask may sample any token, even if its
    sequence is masked. Late masks are sent exactly once per step, and may have no rows.
    """

    step_id: int
    row: Int32Array  # [k] ascending
    words: Int32Array  # [k, mask_width], flattened


class SchedulerOutput(Record, frozen=True):
    """The decision of the scheduler for one step."""

    step_id: int  # strictly increasing
    dropped: list[int]  # handles of finished, aborted or preempted sequences
    added: list[NewSequence]
    rows: Rows
    copy_source: list[Int32Array] = []  # per cache group: blocks to copy before the rows run
    copy_target: list[Int32Array] = []
    mask: Literal["none", "inline", "late"] = "none"
    masks: GrammarMasks | None = None


class PromptScores(Record, frozen=True):
    """Raw logprobs of the n prompt tokens at positions `start` … `start + n - 1`.

    If the sequence requests top tokens (`SamplingParams.top_n_tokens` is above 0), the record also
    contains the k most likely tokens of each position. The number k is `top_n_tokens`, or the size
    of the vocabulary if that is smaller. A position has exactly k top tokens, even if further
    tokens have the same logprob as the last one. An older worker leaves both arrays empty.
    """

    sequence: int  # handle
    start: int
    logprobs: Float32Array  # [n]
    # [n * k] ids, position after position, in descending order of logprob
    top_ids: Int32Array = msgspec.field(default_factory=empty_int32)
    top_logprobs: Float32Array = msgspec.field(default_factory=empty_float32)  # [n * k]


class PooledVector(Record, frozen=True):
    """The vector of a sequence with `pooling` (feature `embeddings`), not normalized."""

    sequence: int  # handle
    values: Float32Array  # [hidden_size]


class RowError(Record, frozen=True):
    """The error of one sequence. The other sequences of the step are unaffected."""

    sequence: int  # handle
    message: str


class StepTimes(Record, frozen=True):
    """Durations of the phases of a step in the worker, in nanoseconds."""

    prepare: int = 0
    forward: int = 0
    sample: int = 0
    compile: int = 0


class ModelRunnerOutput(Record, frozen=True):
    """The result of one step. A row without a sampled token has an empty range in `token_ptr`."""

    step_id: int
    sequence: Int32Array  # [n] handles
    token_ptr: Int32Array  # [n + 1]
    tokens: Int32Array  # [token_ptr[-1]]
    # [token_ptr[-1]]; NaN if no logprob was requested or the device cannot compute it.
    logprobs: Float32Array
    top_ptr: Int32Array  # [token_ptr[-1] + 1], or empty if no row requested top tokens
    top_ids: Int32Array  # [top_ptr[-1]] in descending order of logprob, per token
    top_logprobs: Float32Array
    prompt_scores: list[PromptScores] = []
    errors: list[RowError] = []
    times: StepTimes = StepTimes()
    shape: str = ""  # label of the shape that the device executed, for metrics
    pooled: list[PooledVector] = []
    # Number of tokens in the executed shape, including padding. The value is 0 if the worker does
    # not report it.
    num_padded_tokens: int = 0
