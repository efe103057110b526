"""What crosses the seam in one step: plain data, no tensor, no object of the core.

Records are positional (`array_like`) and append-only: a new field goes to the end and has a
default, so that a worker built for an older minor version reads a newer record and the reverse.
Array fields are contiguous little-endian numpy arrays; their dtype is named in the alias
(`Int32Array`, `Float32Array`), their shape in the field's comment.

The fields called `sequence` contain handles. A handle is the small number that names a sequence in
the worker: the core chooses it when it introduces the sequence, and reuses it only after the
sequence was dropped.

Order of effects inside one `SchedulerOutput`: `dropped`, then `added`, then `copies`, then the
rows.
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
"""Stands in `Rows.tokens` for "the token you sampled last for this sequence" (feature
`device_token`).
"""

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
LogprobsMode = Literal["none", "processed", "raw"]
Pooling = Literal["none", "first", "last", "mean"]


def empty_int32() -> Int32Array:
    """An int32 array of length 0."""
    return np.empty(0, np.int32)


def empty_float32() -> Float32Array:
    """A float32 array of length 0."""
    return np.empty(0, np.float32)


class Record(msgspec.Struct, array_like=True, frozen=True):
    """Base of everything that crosses the seam."""


class SamplingParams(Record, frozen=True):
    """How tokens of one sequence are chosen. Processors act in the order of the fields.

    Source of order and formulas: TGI 3 `utils/logits_process.py` (flash models), without its
    dependence on batch mates; the OpenAI penalties follow the OpenAI API reference.
    """

    greedy: bool = True
    watermark_gamma: float = 0.0  # 0 = no watermark
    watermark_delta: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0  # over prompt and output ids
    relative_frequency_penalty: float = (
        0.0  # TGI: minus p x count / length, over prompt and output ids
    )
    frequency_penalty: float = 0.0  # OpenAI: minus p x count, over output ids
    presence_penalty: float = 0.0  # OpenAI: minus p if present, over output ids
    temperature: float = 1.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    typical_p: float = 1.0  # 1 = off
    min_p: float = 0.0  # 0 = off
    logprobs: LogprobsMode = "none"
    top_n_tokens: int = 0
    prompt_logprobs: bool = False  # raw log-softmax of every prompt token


class MediaInput(Record, frozen=True):
    """One preprocessed image or sound and the placeholder positions it fills (feature `images`).

    Whatever ids the tokens at positions `start` … `start + length - 1` have, the model reads the
    media there, one vector for each position. A prefill chunk may begin or end between them. Media
    of one sequence do not overlap and lie in its prompt; they come again in full with each
    introduction, so a preemption costs nothing but time.
    """

    kind: str  # what it is, by the name the model's preprocessing has for it: "image"
    start: int  # first placeholder position in the sequence's tokens
    length: int
    pixels: npt.NDArray[np.float32]  # any shape: the model's own


class NewSequence(Record, frozen=True):
    """Introduces a sequence: the first time, and again in full after a preemption or a restart.

    `adapter` is the number under which an adapter was loaded (`Control`), 0 = the model alone. A
    sequence whose adapter is not loaded gets a `RowError`; nobody else notices.

    With `pooling` (feature `embeddings`) the sequence chooses no tokens, so none of its rows has
    `sample`: the row that ends its tokens returns one `PooledVector` instead. It takes no prefix
    hits.
    """

    sequence: int  # handle
    request_id: str  # for logs only
    tokens: Int32Array  # [prompt + already generated]
    num_prompt_tokens: int
    num_computed_tokens: int  # > 0 only with feature `prefix_cache`
    block_tables: list[Int32Array]  # one per cache group; empty in slots mode
    sampling: SamplingParams
    sequence_slot: int = -1
    max_total_tokens: int = 0
    adapter: int = 0
    is_masked: bool = False  # constrained by a grammar
    media: list[MediaInput] = []
    encoder_tokens: Int32Array = msgspec.field(default_factory=empty_int32)
    pooling: Pooling = (
        "none"  # of the vectors after the last norm: that of one token, or their mean
    )


class Rows(Record, frozen=True):
    """The work of one step, one entry per row, in structure-of-arrays form. n = number of rows.

    **More than one token** (`Limits.tokens_per_step` > 1). A row that samples returns at least one
    token and at most `max_tokens`. That is above 1 only in rows of one token that are not the first
    of their sequence. Token i of a row is what `draw` i chooses after the tokens before it, as if
    the row had come i + 1 times: several tokens at once are faster, never different. All of them
    but the last are computed when the step is collected, so the sequence goes on at `start +
    (tokens returned)`; its blocks reach to position `start + max_tokens - 1` from the step on.
    Because the core does not know before where that is, no other row of the sequence is submitted
    until the step is collected.

    Without drafts the worker makes the tokens as it likes, and may stop early (feature
    `multi_token`). With drafts (feature `drafts`) the row carries guesses at its next tokens,
    `max_tokens` is one more than they are, and the worker runs them in the same pass. A guess that
    equals the token chosen in its place is accepted, the first other token ends the row: accepted
    guesses plus one are returned. Guesses count as tokens of the step (`Limits.max_step_tokens`).
    """

    sequence: Int32Array  # [n] handles
    start: Int32Array  # [n] position of the row's first token
    count: Int32Array  # [n] tokens of the row
    tokens: Int32Array  # [sum(count)]
    sample: UInt8Array  # [n] 1 = choose a token after the row's last one
    draw: Float32Array  # [n] the uniform draw in [0, 1) of a sampled row
    new_block_ptr: list[Int32Array]  # per cache group: [n + 1]
    new_blocks: list[
        Int32Array
    ]  # per cache group: blocks appended to the rows' tables in this step
    max_tokens: Int32Array = msgspec.field(
        default_factory=empty_int32
    )  # [n] >= 1, with more than one token per step
    extra_draw: Float32Array = msgspec.field(
        default_factory=empty_float32
    )  # [sum(max_tokens - 1)] draws of the further tokens
    draft_ptr: Int32Array = msgspec.field(
        default_factory=empty_int32
    )  # [n + 1], or empty: no row has guesses
    draft: Int32Array = msgspec.field(
        default_factory=empty_int32
    )  # [draft_ptr[-1]] guesses at the rows' next tokens

    @property
    def num_rows(self) -> int:
        """Rows in this step."""
        return len(self.sequence)

    @property
    def num_tokens(self) -> int:
        """Tokens in this step."""
        return len(self.tokens)


class GrammarMasks(Record, frozen=True):
    """Allowed tokens of constrained rows, packed 32 to a word, lowest id in the lowest bit
    (features `mask`, `late_mask`).

    A row has one mask for each token that it may choose, so a constrained row without drafts has
    `max_tokens` 1. The masks of a row stand together: the first is for its first token, the next
    one for the token after its first guess, if that is accepted.
    """

    step_id: int
    row: Int32Array  # [k] ascending
    words: Int32Array  # [k, mask_width], flattened


class SchedulerOutput(Record, frozen=True):
    """One step."""

    step_id: int  # strictly increasing
    dropped: list[int]  # finished, aborted or preempted sequences: forget them first
    added: list[NewSequence]
    rows: Rows
    copy_source: list[Int32Array] = []  # per cache group: blocks to copy before the rows
    copy_target: list[Int32Array] = []
    mask: Literal["none", "inline", "late"] = "none"
    masks: GrammarMasks | None = None


class PromptScores(Record, frozen=True):
    """Raw log-probabilities of the prompt tokens at positions `start` … `start + len(logprobs) -
    1`.
    """

    sequence: int  # handle
    start: int
    logprobs: Float32Array


class PooledVector(Record, frozen=True):
    """What a sequence with `pooling` asked for (feature `embeddings`); not normalized."""

    sequence: int  # handle
    values: Float32Array  # [hidden_size]


class RowError(Record, frozen=True):
    """One sequence failed; the others of the step are fine."""

    sequence: int  # handle
    message: str


class StepTimes(Record, frozen=True):
    """Nanoseconds spent by the worker."""

    prepare: int = 0
    forward: int = 0
    sample: int = 0
    compile: int = 0


class ModelRunnerOutput(Record, frozen=True):
    """The result of one step. Rows that chose no token have an empty range in `token_ptr`."""

    step_id: int
    sequence: Int32Array  # [n] handles
    token_ptr: Int32Array  # [n + 1]
    tokens: Int32Array  # [token_ptr[-1]]
    logprobs: (
        Float32Array  # [token_ptr[-1]]; NaN where none was asked for or the device cannot give one
    )
    top_ptr: Int32Array  # [token_ptr[-1] + 1], or empty if no row asked for top tokens
    top_ids: Int32Array  # descending by log-probability
    top_logprobs: Float32Array
    prompt_scores: list[PromptScores] = []
    errors: list[RowError] = []
    times: StepTimes = StepTimes()
    shape: str = ""  # label of the executed shape, for metrics
    pooled: list[PooledVector] = []
    num_padded_tokens: int = (
        0  # tokens of the executed shape, padding included; 0 = the worker does not tell
    )
