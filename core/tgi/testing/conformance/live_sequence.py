"""The state of one sequence in `ScriptedCore`, the replacement of the core in the conformance
checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, final

import numpy as np

from tgi.backend import Float32Array, MediaInput, Pooling, PromptScores, SamplingParams
from tgi.scheduler.draw import uniform_draws

__all__ = ["Drafter", "LiveSequence", "draw_of"]

_MOST_SHOWN = 12

Drafter: TypeAlias = "Callable[[LiveSequence], list[int]]"


@final
@dataclass(eq=False)
class LiveSequence:
    """The state of one sequence in the scripted core."""

    handle: int
    prompt: list[int]
    output: list[int]
    sampling: SamplingParams
    seed: int
    blocks: list[int]
    sequence_slot: int
    num_computed_tokens: int = 0
    num_introduced_tokens: int = 0  # number of tokens that were sent in its `NewSequence`, or 0
    num_sent_blocks: int = 0
    # Tokens that masks allow, for consecutive output tokens. The entries are used cyclically.
    # None allows every token.
    allowed: tuple[tuple[int, ...] | None, ...] = ()
    num_given: int = 0  # number of output tokens that were sent in its `NewSequence`
    logprobs: list[float] = field(default_factory=list)  # one for each token in output[num_given:]
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_scores: dict[int, float] = field(default_factory=dict)  # by position
    prompt_tops: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # by position
    error: str = ""
    encoder_tokens: list[int] = field(default_factory=list)
    encoder_blocks: list[int] = field(default_factory=list)  # in the cross groups
    adapter: int = 0
    media: tuple[MediaInput, ...] = ()
    pooling: Pooling = "none"
    pooled: Float32Array | None = None
    max_tokens: int = 1  # maximum number of tokens that a decode row may sample
    drafter: Drafter | None = None  # proposes draft tokens for decode rows
    # Where each output token after output[:num_given] was sampled: (step, row, rows of the step).
    places: list[tuple[int, int, int]] = field(default_factory=list)
    # Number of tokens of each row that computed a part of the sequence's introduced tokens.
    chunks: list[int] = field(default_factory=list)
    draw: float | None = None  # for the next token, in place of the draw from the seed

    @property
    def tokens(self) -> list[int]:
        """Prompt and output tokens."""
        return self.prompt + self.output

    @property
    def is_introduced(self) -> bool:
        """Whether the sequence was sent to the worker."""
        return self.num_introduced_tokens > 0

    @property
    def is_decoding(self) -> bool:
        """Whether all tokens of the sequence's `NewSequence` have been computed."""
        return self.is_introduced and self.num_computed_tokens >= self.num_introduced_tokens

    def allowed_at(self, index: int) -> tuple[int, ...] | None:
        """Return the tokens that the mask for output token `index` allows, or None if there is no
        mask.
        """
        return self.allowed[index % len(self.allowed)] if self.allowed else None

    def add_prompt_scores(self, scores: PromptScores) -> None:
        """Add the scores and the top tokens of prompt positions."""
        tops = list(zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True))
        count = len(tops) // max(len(scores.logprobs), 1)
        for index, value in enumerate(scores.logprobs.tolist()):
            self.prompt_scores[scores.start + index] = value
            self.prompt_tops[scores.start + index] = tops[index * count : (index + 1) * count]

    @property
    def description(self) -> str:
        """The data with which the sequence can be built again, for messages."""
        shown = ", ".join(map(str, self.prompt[:_MOST_SHOWN]))
        more = ", …" if len(self.prompt) > _MOST_SHOWN else ""
        chunks = " + ".join(map(str, self.chunks[:_MOST_SHOWN])) or "none"
        chunks += " + …" if len(self.chunks) > _MOST_SHOWN else ""
        return (
            f"prompt of {len(self.prompt)} tokens [{shown}{more}], computed in chunks of {chunks};"
            f" {self.num_given} output tokens given; seed {self.seed}; handle {self.handle}"
        )

    def place_of(self, index: int) -> str:
        """Describe the row that sampled output token `index`, for messages."""
        place = index - self.num_given
        if not 0 <= place < len(self.places):
            return f"output token {index}"
        step, row, num_rows = self.places[place]
        return f"output token {index}, row {row} of a batch of {num_rows} in step {step}"

    @property
    def num_left(self) -> int:
        """Number of known tokens that have not been computed."""
        return len(self.prompt) + len(self.output) - self.num_computed_tokens


def draw_of(sequence: LiveSequence, ahead: int = 0) -> float:
    """Return the draw for the output token that is `ahead` tokens after the sequence's next
    token.
    """
    if sequence.sampling.greedy:
        return 0.0
    if sequence.draw is not None and not ahead:
        return sequence.draw
    return float(
        uniform_draws(
            np.array([sequence.seed], np.uint64),
            np.array([len(sequence.output) + ahead], np.uint64),
        )[0]
    )
