"""Reads a model's position encoding from its config: rotary embedding, learned tables, and biases
by distance.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "DynamicScaling",
    "LearnedPositions",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Part",
    "PositionScale",
    "ProportionalScaling",
    "RelativeBias",
    "Rope",
    "RopeScaling",
    "SinusoidalPositions",
    "YarnScaling",
]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of all records that describe an architecture."""


class LinearScaling(Part, frozen=True, tag="linear"):
    """Divides positions by `factor`."""

    factor: float


class DynamicScaling(Part, frozen=True, tag="dynamic"):
    """NTK scaling. The base is increased if a sequence is longer than `original_max_positions`."""

    factor: float
    original_max_positions: int


class Llama3Scaling(Part, frozen=True, tag="llama3"):
    """Divides low frequencies by `factor`, keeps high frequencies, and interpolates between the two
    ranges (Llama 3.1).
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


class YarnScaling(Part, frozen=True, tag="yarn"):
    """YaRN (arXiv 2309.00071). `attention_factor` is a factor of cos and sin."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


class LongRopeScaling(Part, frozen=True, tag="longrope"):
    """LongRoPE (arXiv 2402.13753). Short and long contexts each have one factor per frequency.

    `attention_factor` is a factor of cos and sin. In a long context, `long_attention_factor`
    replaces `attention_factor` if it is set.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_positions: int
    attention_factor: float = 1.0
    long_attention_factor: float | None = None


class ProportionalScaling(Part, frozen=True, tag="proportional"):
    """Rotates only the first `num_pairs` pairs of a head, with frequencies divided by `factor`
    (gemma4). The frequencies of these pairs are the same as if all pairs were rotated.
    """

    num_pairs: int
    factor: float = 1.0


RopeScaling = (
    LinearScaling
    | DynamicScaling
    | Llama3Scaling
    | YarnScaling
    | LongRopeScaling
    | ProportionalScaling
)


class Rope(Part, frozen=True):
    """Rotary embedding of the first `rotary_dim` values of a head.

    If `interleaved` is set, a pair consists of adjacent values (GPT-J). Otherwise a pair has one
    value from each half (NeoX).
    """

    theta: float
    rotary_dim: int
    interleaved: bool = False
    scaling: RopeScaling | None = None


class PositionScale(Part, frozen=True):
    """Multiplies the query at position p by 1 + `beta` * log(1 + floor((p + `offset`) / `period`))
    (ministral3 and llama4, arXiv 2501.19399).
    """

    beta: float
    period: int
    offset: int = 0


class RelativeBias(Part, frozen=True):
    """T5's learned bias per head and distance bucket.

    If `shared` is set, only the first layer of a stack has the table.
    """

    num_buckets: int
    max_distance: int
    bidirectional: bool
    shared: bool = True


class LearnedPositions(Part, frozen=True, tag="learned"):
    """A table of `num_positions` + `offset` vectors that are added to the embedding.

    The row of a token is its position + `offset`.
    """

    num_positions: int
    offset: int = 0


class SinusoidalPositions(Part, frozen=True, tag="sinusoidal"):
    """A table of `num_positions` + `offset` vectors of sines and cosines (arXiv 1706.03762), which
    are added to the embedding. The checkpoint does not contain the table.

    The row of a token is its position + `offset`.
    """

    num_positions: int
    offset: int = 0
