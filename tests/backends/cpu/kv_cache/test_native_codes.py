"""The native kernels with a cache of codes: the codes that they write, and attention over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.cpu.kv_cache.codes import (
    FLOATS,
    Floats,
    decode,
    encode_floats,
    encode_integers,
    ordinary,
    unusual,
)
from tests.backends.cpu.kv_cache.native_layer import NativeLayer
from tgi.worker.cache_format import CacheScales
from tgi_cpu.native import NativeLibrary
from tgi_cpu.native_cache import CacheKind
from tgi_cpu.native_records import BLOCK_TOKENS

TABLE = [7, 2, 11, 19, 5, 1, 14, 3, 9, 22, 16]  # of a sequence of up to 352 tokens
SCALES = CacheScales(0.37, 2.25)
FORMATS = [*FLOATS, "int8"]


def slots_of(first: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    positions = np.arange(first, first + count)
    return np.array(TABLE)[positions // BLOCK_TOKENS] * BLOCK_TOKENS + positions % BLOCK_TOKENS


@pytest.mark.parametrize("scales", [CacheScales(), SCALES])
@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_rounded_to_nearest_even(
    name: str, scales: CacheScales, library: NativeLibrary
) -> None:
    special = unusual(name)
    special = np.concatenate([special, np.zeros(-len(special) % 64, np.float32)])
    keys = np.concatenate([special, ordinary(640)]).reshape(-1, 1, 64)
    values = keys[::-1].copy()
    layer = NativeLayer(library, name, num_heads=1, num_kv_heads=1, scales=scales)
    slots = slots_of(0, len(keys))
    layer.write(keys, values, slots)
    for (codes, _), vectors, scale in zip(
        layer.stored(slots), (keys, values), (scales.key, scales.value), strict=True
    ):
        # The kernel multiplies by the inverse of the scale.
        with np.errstate(over="ignore"):
            product = vectors * np.float32(1 / scale)
        overflows = np.isinf(product) & np.isfinite(vectors)
        expected = encode_floats(np.where(overflows, vectors, product), name)
        np.testing.assert_array_equal(codes, expected)


def test_a_finite_value_saturates_even_if_its_quotient_overflows(library: NativeLibrary) -> None:
    layer = NativeLayer(library, "fp8_e4m3fn", scales=CacheScales(1e-4, 1e-4))
    keys = np.full((1, 2, 64), -3e38, np.float32)
    layer.write(keys, -keys, slots_of(0, 1))
    (key, _), (value, _) = layer.stored(slots_of(0, 1))
    assert np.unique(key).tolist() == [0xFE]
    assert np.unique(value).tolist() == [0x7E]


def test_integers_have_a_scale_per_token_and_head(library: NativeLibrary) -> None:
    layer = NativeLayer(library, "int8", head_dim=80)
    keys, values = ordinary(70, 2, 80), ordinary(70, 2, 80, seed=1)
    keys[3, 1] = 0.0
    keys[4, 0, 7], values[5, 1, 79], values[6, 0, 0] = np.nan, np.inf, -np.inf
    keys[7, 1], values[8, 0] = 1e-40, 3e38
    slots = slots_of(20, 70)
    layer.write(keys, values, slots)
    for (codes, scales), vectors in zip(layer.stored(slots), (keys, values), strict=True):
        expected_codes, expected_scales = encode_integers(vectors)
        assert scales is not None
        np.testing.assert_array_equal(scales, expected_scales)
        is_tiny = expected_scales < 1e-35
        found = codes.view(np.int8).astype(np.int32)
        error = np.abs(found - expected_codes.view(np.int8))[~is_tiny]
        # The kernel multiplies by the inverse of the scale, which can change a tie.
        assert error.max() <= 1
        assert (error > 0).mean() < 0.001
        assert not found[is_tiny].any()


def reference(
    queries: Floats,
    keys: Floats,
    values: Floats,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    slopes: Floats | None = None,
    sinks: Floats | None = None,
) -> Floats:
    """Attention of the last queries [Q, H, D] over [L, K, D] in float64."""
    count, num_heads, _ = queries.shape
    group = num_heads // keys.shape[1]
    key, value = (np.repeat(side, group, axis=1).astype(np.float64) for side in (keys, values))
    scores = np.einsum("qhd,lhd->hql", queries.astype(np.float64), key) * scale
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    position = np.arange(len(keys) - count, len(keys))[:, None]
    distance = position - np.arange(len(keys))
    if slopes is not None:
        scores = scores - slopes[:, None, None] * distance
    visible = (distance >= 0) & (distance < window if window else True)
    scores = np.where(visible, scores, -np.inf)
    if sinks is not None:
        column = np.broadcast_to(sinks[:, None, None], (num_heads, count, 1))
        scores = np.concatenate([scores, column], axis=-1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hql,lhd->qhd", weights[..., : len(keys)], value).astype(np.float32)


def check_attention(
    library: NativeLibrary,
    name: str,
    *,
    context: int,
    num_queries: int,
    num_heads: int = 6,
    num_kv_heads: int = 2,
    head_dim: int = 64,
    fields: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Compare a sequence that was written in chunks with the reference over the decoded codes."""
    scales = CacheScales() if name == "int8" else SCALES
    layer = NativeLayer(
        library,
        name,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scales=scales,
        **(fields or {}),
    )
    rng = np.random.default_rng(5)
    keys, values, queries = (
        rng.normal(size=(count, heads, head_dim)).astype(np.float32)
        for count, heads in (
            (context, num_kv_heads),
            (context, num_kv_heads),
            (num_queries, num_heads),
        )
    )
    for first in range(0, context, 50):
        last = min(first + 50, context)
        layer.write(keys[first:last], values[first:last], slots_of(first, last - first))
    found = layer.attend(queries, TABLE, context)
    if name == "int8":
        decoded = [
            decode(*encode_integers(side)[:1], name, encode_integers(side)[1])
            for side in (keys, values)
        ]
    else:
        pairs = ((keys, scales.key), (values, scales.value))
        decoded = [decode(encode_floats(side, name, scale), name, scale) for side, scale in pairs]
    bf16_queries = (queries.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)
    expected = reference(
        bf16_queries, decoded[0], decoded[1], scale=layer.record.scale, **(options or {})
    )
    # The scaled numbers, the weights and the result are rounded to bfloat16.
    assert np.abs(found - expected).max() < 0.03
    assert np.abs(found - expected).mean() < 0.003


@pytest.mark.parametrize(
    ("context", "num_queries"), [(1, 1), (33, 1), (340, 1), (340, 7), (340, 60), (256, 256)]
)
@pytest.mark.parametrize("name", FORMATS)
def test_attention_over_codes(
    name: str, context: int, num_queries: int, library: NativeLibrary
) -> None:
    check_attention(library, name, context=context, num_queries=num_queries)


@pytest.mark.parametrize("num_kv_heads", [1, 6])
@pytest.mark.parametrize("head_dim", [16, 80, 128, 256])
@pytest.mark.parametrize("name", FORMATS)
def test_sizes_of_heads_and_groups(
    name: str, head_dim: int, num_kv_heads: int, library: NativeLibrary
) -> None:
    sizes = {"head_dim": head_dim, "num_kv_heads": num_kv_heads}
    check_attention(library, name, context=200, num_queries=1, **sizes)
    check_attention(library, name, context=200, num_queries=40, **sizes)


SLOPES = np.array([0.5, 0.25, 0.125, 0.0625, 0.03, 0.015], np.float32)
SINKS = np.array([2.0, 1.0, 0.0, -1.0, 3.0, -20.0], np.float32)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "window": ({"window": 45}, {"window": 45}),
    "softcap": ({"softcap": 1.5}, {"softcap": 1.5}),
    "alibi": ({"slopes": SLOPES.ctypes.data}, {"slopes": SLOPES}),
    "sinks": ({"sinks": SINKS.ctypes.data}, {"sinks": SINKS}),
}


@pytest.mark.parametrize("num_queries", [1, 40])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", FORMATS)
def test_variants_of_attention(
    name: str, variant: str, num_queries: int, library: NativeLibrary
) -> None:
    fields, options = VARIANTS[variant]
    check_attention(
        library, name, context=300, num_queries=num_queries, fields=fields, options=options
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("side", ["key", "value"])
def test_values_that_are_not_finite_reach_the_result(
    name: str, side: str, library: NativeLibrary
) -> None:
    layer = NativeLayer(library, name)
    keys, values = ordinary(40, 2, 64), ordinary(40, 2, 64, seed=1)
    (keys if side == "key" else values)[10, 1, 3] = np.nan
    layer.write(keys, values, slots_of(0, 40))
    found = layer.attend(ordinary(1, 4, 64, seed=2), TABLE, 40)
    assert np.isfinite(found[:, :2]).all()
    assert np.isnan(found[:, 2:]).any(-1).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_copy_of_a_block_includes_the_scales(name: str, library: NativeLibrary) -> None:
    layer = NativeLayer(library, name)
    layer.write(ordinary(64, 2, 64), ordinary(64, 2, 64, seed=1), slots_of(0, 64))
    layer.cache.copy_blocks(np.array([TABLE[0], TABLE[1]]), np.array([23, TABLE[0]]))
    queries = ordinary(1, 4, 64, seed=2)
    found = layer.attend(queries, [23, TABLE[1]], 64)
    np.testing.assert_array_equal(found, layer.attend(queries, [23, TABLE[0]], 64))
    assert np.isfinite(found).all()


def test_the_scratch_memory_of_a_bf16_cache_does_not_grow(library: NativeLibrary) -> None:
    """Only a cache of codes needs memory for decoded blocks."""
    record = NativeLayer(library, "int8").record
    with_codes = library.scratch_floats(record)
    record.cache_format = CacheKind.BF16
    assert with_codes - library.scratch_floats(record) == 4 * BLOCK_TOKENS * 2 * 64 // 2
