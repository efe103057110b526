"""Rotary embedding: reads a `Rope` from a config, and computes its frequencies. The module also
computes the table of sinusoidal positions.

Formulas: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), LongRoPE (arXiv 2402.13753), Llama
3.1's model card.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tgi.architectures.config_reader import ConfigReader
from tgi.architectures.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    RopeScaling,
    SinusoidalPositions,
    YarnScaling,
)

__all__ = [
    "inverse_frequencies",
    "original_length",
    "read_rope",
    "sinusoidal_table",
    "yarn_mscale",
]

FloatArray = npt.NDArray[np.float64]

_TYPES = {
    "default": "default",
    "linear": "linear",
    "dynamic": "dynamic",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
    "proportional": "proportional",
    "su": "longrope",
}


def read_rope(
    config: ConfigReader,
    *,
    head_dim: int,
    max_positions: int,
    interleaved: bool = False,
    default_theta: float = 10_000.0,
    default_partial: float = 1.0,
    layer_type: str | None = None,
) -> Rope:
    """Read the rotary embedding of a config.

    Both spellings are read: `rope_parameters` (transformers 5, with `rope_theta` inside), and
    `rope_theta` with `rope_scaling`. If `rope_parameters` has one set of parameters per layer type,
    `layer_type` selects the set.
    """
    section = next((name for name in ("rope_scaling", "rope_parameters") if config.has(name)), None)
    scaling = ConfigReader({}) if section is None else config.section(section)
    if layer_type is not None and scaling.nested:
        scaling = scaling.section(layer_type) if scaling.has(layer_type) else ConfigReader({})
    if section is not None and scaling.nested:
        raise config.error(
            section, "must be one set of parameters; this architecture has none per layer type"
        )
    theta = scaling if scaling.has("rope_theta") else config
    partial = scaling if scaling.has("partial_rotary_factor") else config
    share = partial.number("partial_rotary_factor", "rotary_pct", default=default_partial)
    is_proportional = scaling.is_string("rope_type") and scaling.text("rope_type") == "proportional"
    rotary_dim = head_dim if is_proportional else int(head_dim * share)
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise partial.error(
            "partial_rotary_factor",
            f"must give an even number of dimensions of the head's {head_dim}",
        )
    return Rope(
        theta=theta.number("rope_theta", "rotary_emb_base", default=default_theta),
        rotary_dim=rotary_dim,
        interleaved=interleaved,
        scaling=(
            ProportionalScaling(
                num_pairs=int(share * head_dim // 2), factor=scaling.number("factor", default=1.0)
            )
            if is_proportional
            else _read_scaling(config, scaling, rotary_dim, max_positions)
        ),
    )


def _read_scaling(
    config: ConfigReader, scaling: ConfigReader, rotary_dim: int, max_positions: int
) -> RopeScaling | None:
    kind = scaling.choice("rope_type", "type", table=_TYPES, default="default")
    outside = config.has("original_max_position_embeddings")
    original = (config if outside else scaling).integer(
        "original_max_position_embeddings", default=max_positions
    )
    match kind:
        case "linear":
            return LinearScaling(factor=scaling.number("factor"))
        case "dynamic":
            return DynamicScaling(
                factor=scaling.number("factor"), original_max_positions=max_positions
            )
        case "llama3":
            return Llama3Scaling(
                factor=scaling.number("factor"),
                low_freq_factor=scaling.number("low_freq_factor"),
                high_freq_factor=scaling.number("high_freq_factor"),
                original_max_positions=original,
            )
        case "yarn":
            factor = scaling.number("factor", default=max_positions / original)
            return YarnScaling(
                factor=factor,
                original_max_positions=original,
                beta_fast=scaling.number("beta_fast", default=32.0) or 32.0,
                beta_slow=scaling.number("beta_slow", default=1.0) or 1.0,
                attention_factor=_yarn_attention_factor(scaling, factor),
                truncate=scaling.boolean("truncate", default=True),
            )
        case "longrope":
            factor = scaling.number("factor", default=max_positions / original)
            default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            return LongRopeScaling(
                short_factor=scaling.numbers("short_factor", rotary_dim // 2),
                long_factor=scaling.numbers("long_factor", rotary_dim // 2),
                original_max_positions=original,
                attention_factor=scaling.number(
                    "short_mscale", "attention_factor", default=default
                ),
                long_attention_factor=(
                    scaling.number("long_mscale") if scaling.has("long_mscale") else None
                ),
            )
    return None


def _yarn_attention_factor(scaling: ConfigReader, factor: float) -> float:
    mscale = scaling.number("mscale", default=0.0)
    mscale_all_dim = scaling.number("mscale_all_dim", default=0.0)
    both = mscale != 0 and mscale_all_dim != 0
    default = (
        yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
        if both
        else yarn_mscale(factor, 1.0)
    )
    return scaling.number("attention_factor", default=default)


def yarn_mscale(factor: float, mscale: float) -> float:
    """Return YaRN's factor for the attention logits if the context is extended by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def original_length(rope: Rope) -> int | None:
    """Return the sequence length above which the frequencies change, or None if they never
    change.
    """
    return (
        rope.scaling.original_max_positions
        if isinstance(rope.scaling, DynamicScaling | LongRopeScaling)
        else None
    )


def sinusoidal_table(positions: SinusoidalPositions, size: int) -> npt.NDArray[np.float32]:
    """Compute the table of sinusoidal positions, float32 [num_positions + offset, size].

    The angles are computed in float32, as in `transformers`. The first half of a row contains
    sines, and the second half contains cosines.
    """
    half = size // 2
    step = np.float32(math.log(10_000) / (half - 1))
    frequencies = np.exp(-np.arange(half, dtype=np.float32) * step)
    rows = np.arange(positions.num_positions + positions.offset, dtype=np.float32)
    angles = rows[:, None] * frequencies[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def inverse_frequencies(rope: Rope, seq_len: int) -> tuple[FloatArray, float]:
    """Compute the frequencies and the factor of cos and sin.

    A frequency is the angle per position of one rotated pair. The frequencies are float64
    [rotary_dim / 2]. `seq_len` is the length of the running sequence. Only dynamic and longrope
    scaling depend on it.
    """
    exponents = np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim
    plain = rope.theta**-exponents
    if isinstance(rope.scaling, ProportionalScaling):
        is_rotated = np.arange(len(plain)) < rope.scaling.num_pairs
        plain = np.where(is_rotated, plain / rope.scaling.factor, 0.0)
    match rope.scaling:
        case None | ProportionalScaling():
            return plain, 1.0
        case LinearScaling(factor=factor):
            return plain / factor, 1.0
        case DynamicScaling() as scaling:
            return np.power(_dynamic_base(rope, scaling, seq_len), -exponents), 1.0
        case Llama3Scaling() as scaling:
            return _llama3(plain, scaling), 1.0
        case YarnScaling() as scaling:
            return _yarn(plain, rope, scaling), scaling.attention_factor
        case LongRopeScaling() as scaling:
            return _longrope(plain, scaling, seq_len)


def _dynamic_base(rope: Rope, scaling: DynamicScaling, seq_len: int) -> float:
    stretch = max(seq_len, scaling.original_max_positions) / scaling.original_max_positions
    growth = scaling.factor * stretch - (scaling.factor - 1)
    return float(rope.theta * growth ** (rope.rotary_dim / (rope.rotary_dim - 2)))


def _llama3(plain: FloatArray, scaling: Llama3Scaling) -> FloatArray:
    # Number of rotations over the original context.
    turns = scaling.original_max_positions * plain / (2 * math.pi)
    kept: FloatArray = (turns - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(kept, 0.0, 1.0)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _longrope(
    plain: FloatArray, scaling: LongRopeScaling, seq_len: int
) -> tuple[FloatArray, float]:
    if seq_len <= scaling.original_max_positions:
        return plain / np.asarray(scaling.short_factor), scaling.attention_factor
    factor = (
        scaling.attention_factor
        if scaling.long_attention_factor is None
        else scaling.long_attention_factor
    )
    return plain / np.asarray(scaling.long_factor), factor


def _yarn(plain: FloatArray, rope: Rope, scaling: YarnScaling) -> FloatArray:
    def pair_with(turns: float) -> float:
        """Return the fractional index of the pair that rotates `turns` times over the original
        context.
        """
        context = scaling.original_max_positions / (turns * 2 * math.pi)
        return rope.rotary_dim * math.log(context) / (2 * math.log(rope.theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = high - low or 0.001
    interpolated: FloatArray = np.clip((np.arange(rope.rotary_dim // 2) - low) / width, 0.0, 1.0)
    return interpolated * plain / scaling.factor + (1 - interpolated) * plain
