"""How a model knows positions: the grammar's words for rotations, learned tables and biases by
distance.
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
    "RelativeBias",
    "Rope",
    "RopeScaling",
    "YarnScaling",
]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the grammar's words."""


class LinearScaling(Part, frozen=True, tag="linear"):
    """Positions divided by `factor`."""

    factor: float


class DynamicScaling(Part, frozen=True, tag="dynamic"):
    """NTK scaling; the base grows once a sequence is longer than `original_max_positions`."""

    factor: float
    original_max_positions: int


class Llama3Scaling(Part, frozen=True, tag="llama3"):
    """Low frequencies divided by `factor`, high ones kept, a smooth blend between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


class YarnScaling(Part, frozen=True, tag="yarn"):
    """YaRN (arXiv 2309.00071). `attention_factor` multiplies cos and sin."""

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


class LongRopeScaling(Part, frozen=True, tag="longrope"):
    """LongRoPE (arXiv 2402.13753): one factor per frequency, a set for short and a set for long
    contexts.

    `attention_factor` multiplies cos and sin, and in a long context `long_attention_factor` does if
    there is one.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_positions: int
    attention_factor: float = 1.0
    long_attention_factor: float | None = None


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling


class Rope(Part, frozen=True):
    """Rotary embedding of the first `rotary_dim` of a head. `interleaved`: pairs are neighbours
    (GPT-J), else halves (NeoX).
    """

    theta: float
    rotary_dim: int
    interleaved: bool = False
    scaling: RopeScaling | None = None


class RelativeBias(Part, frozen=True):
    """T5's learned bias per head and distance bucket. `shared`: only the first layer owns the
    table.
    """

    num_buckets: int
    max_distance: int
    bidirectional: bool
    shared: bool = True


class LearnedPositions(Part, frozen=True):
    """A table of `num_positions` + `offset` vectors added to the embedding; row = position +
    `offset`.
    """

    num_positions: int
    offset: int = 0
