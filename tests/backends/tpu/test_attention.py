"""Attention over the paged cache.

The plain operations are compared with the definition, and the kernel with the plain operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental.pallas import tpu as pltpu

from tests.backends.tpu.specs import spec_of
from tests.backends.tpu.stepping import Runner, Sequence, draw_weights, parameters_of
from tgi.testing.reference.model import reference_logits
from tgi_tpu.attention.paged import AttentionRule, attend, step_of_layer, write_pages
from tgi_tpu.attention.plan import AttentionPlan, attention_candidates
from tgi_tpu.attention.ragged import ragged_attention
from tgi_tpu.mesh import make_mesh
from tgi_tpu.step_arrays import StepArrays

BLOCK_SIZE = 8
ROWS = ((1, 29), (1, 5), (9, 9), (3, 20), (1, 1))
"""(new tokens, context) of each sequence: decode rows, a whole prompt and a prefill chunk."""
RULES = {
    "plain": (AttentionRule(0.1), ()),
    "window": (AttentionRule(0.1, window=6, softcap=4.0), ()),
    "alibi": (AttentionRule(0.1), ("alibi_slopes",)),
    "sinks": (AttentionRule(0.1, window=11), ("sinks",)),
}

KERNELS = {
    "plain": (AttentionRule(0.1), (), "bfloat16"),
    "everything": (
        AttentionRule(0.1, window=11, softcap=4.0),
        ("alibi_slopes", "sinks"),
        "float32",
    ),
}


def ragged(
    rows: tuple[tuple[int, int], ...], tokens: int, sequences: int, width: int
) -> StepArrays:
    """Build rows with scattered blocks. No row uses block 0."""
    free = iter(np.random.default_rng(3).permutation(np.arange(1, 1 + sequences * width)))
    tables = np.zeros((sequences, width), np.int32)
    positions: list[int] = []
    slots: list[int] = []
    for table, (count, context) in zip(tables, rows, strict=False):
        num_blocks = -(-context // BLOCK_SIZE)
        table[:num_blocks] = [next(free) for _ in range(num_blocks)]
        new = range(context - count, context)
        positions += new
        slots += [int(table[p // BLOCK_SIZE]) * BLOCK_SIZE + p % BLOCK_SIZE for p in new]
    spare, padding = sequences - len(rows), tokens - len(positions)
    num_slots = (1 + sequences * width) * BLOCK_SIZE
    one = np.zeros(1, np.int32)
    return StepArrays(
        token_ids=np.zeros(tokens, np.int32),
        positions=np.asarray(positions + [0] * padding, np.int32),
        slot_mapping=np.asarray(slots + [num_slots] * padding, np.int32),
        cu_query_lens=np.cumsum([0, *(count for count, _ in rows), *[0] * spare]).astype(np.int32),
        context_lens=np.asarray([context for _, context in rows] + [0] * spare, np.int32),
        block_tables=tables,
        num_sequences=np.asarray([len(rows)], np.int32),
        logit_indices=one,
        rotary_lens=one,
    )


def draw(
    step: StepArrays, heads: int, kv_heads: int, head_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw queries and pages. Slots that belong to no sequence are NaN."""
    generator = np.random.default_rng(4)
    query = generator.standard_normal((len(step.positions), heads, head_dim)).astype(np.float32)
    num_blocks = 1 + step.block_tables.size
    pages = np.full((num_blocks, BLOCK_SIZE, 2 * kv_heads, head_dim), np.nan, np.float32)
    for table, context in zip(step.block_tables, step.context_lens, strict=True):
        for position in range(context):
            pages[table[position // BLOCK_SIZE], position % BLOCK_SIZE] = generator.standard_normal(
                (2 * kv_heads, head_dim)
            )
    return query, pages


def vectors_of(names: tuple[str, ...], heads: int) -> dict[str, jax.Array]:
    return {name: jnp.linspace(0.3, -0.2, heads) for name in names}


def by_definition(
    query: np.ndarray, pages: np.ndarray, step: StepArrays, rule: AttentionRule, vectors: dict
) -> np.ndarray:
    """Compute one query and one head after the other."""
    out = np.zeros_like(query)
    for sequence in range(int(step.num_sequences[0])):
        slots = pages[step.block_tables[sequence]].reshape(-1, *pages.shape[2:])
        for token in range(step.cu_query_lens[sequence], step.cu_query_lens[sequence + 1]):
            position = step.positions[token]
            first = 0 if rule.window is None else max(0, position - rule.window + 1)
            for head in range(query.shape[1]):
                group = head // (query.shape[1] // (pages.shape[2] // 2))
                key, value = (slots[first : position + 1, 2 * group + part] for part in (0, 1))
                scores = key @ query[token, head] * rule.scale
                if rule.softcap is not None:
                    scores = rule.softcap * np.tanh(scores / rule.softcap)
                if "alibi_slopes" in vectors:
                    scores = scores + float(vectors["alibi_slopes"][head]) * (
                        np.arange(first, position + 1) - position
                    )
                weights = np.exp(scores)
                sink = np.exp(float(vectors["sinks"][head])) if "sinks" in vectors else 0.0
                out[token, head] = weights @ value / (weights.sum() + sink)
    return out


@pytest.mark.parametrize("name", RULES)
def test_plain_operations(name: str) -> None:
    """Tiles of one sequence, or single tokens if every sequence has one token."""
    rule, names = RULES[name]
    for rows, tokens in ((ROWS, 40), (tuple((1, context) for _, context in ROWS), 6)):
        step = ragged(rows, tokens, 6, 4)
        query, pages = draw(step, 4, 2, 16)
        vectors = vectors_of(names, 4)
        actual = np.asarray(jax.jit(attend, static_argnums=3)(query, pages, step, rule, vectors))
        count = step.cu_query_lens[-1]
        assert np.isfinite(actual).all()
        np.testing.assert_allclose(
            actual[:count], by_definition(query, pages, step, rule, vectors)[:count], atol=1e-5
        )


def test_a_prompt_longer_than_a_tile() -> None:
    step = ragged(((70, 75), (2, 9)), 80, 3, 10)
    query, pages = draw(step, 2, 1, 8)
    rule = AttentionRule(0.2)
    actual = np.asarray(jax.jit(attend, static_argnums=3)(query, pages, step, rule, {}))
    np.testing.assert_allclose(
        actual[:72], by_definition(query, pages, step, rule, {})[:72], atol=1e-5
    )


def test_padding_writes_nothing_into_the_next_layer() -> None:
    step = ragged(((1, 1),), 2, 1, 1)
    pages = jnp.zeros((3 * 2, BLOCK_SIZE, 2, 8))  # three layers of two blocks
    new = jnp.ones((2, 1, 8))
    for layer in range(3):
        seen = step_of_layer(
            replace(step, slot_mapping=np.asarray([3, 16], np.int32)), pages, jnp.int32(layer), 3
        )
        written = np.asarray(write_pages(pages, new, 2 * new, seen.slot_mapping))
        assert np.argwhere(written.any(axis=(2, 3))).tolist() == [[2 * layer, 3]]
        assert written[2 * layer, 3, :, 0].tolist() == [1, 2], "key, then value"


@pytest.fixture
def races() -> Iterator[None]:
    """Fails if two steps of the interpreted kernel access the same memory without order."""
    pltpu.reset_tpu_interpret_mode_state()
    yield
    assert interpreter.races is not None, "the interpreter must look for races"
    assert not interpreter.races.races_found


@pytest.mark.parametrize(("rule", "names", "dtype"), KERNELS.values(), ids=list(KERNELS))
def test_kernel(rule: AttentionRule, names: tuple[str, ...], dtype: str, races: None) -> None:
    """Emulates a TPU: copies are asynchronous, and memory is NaN before it is written."""
    step = ragged(((1, 150), *ROWS), 40, 7, 20)
    query, pages = (jnp.asarray(part, dtype) for part in draw(step, 6, 2, 16))
    vectors = vectors_of(names, 6)
    expected = np.asarray(
        jax.jit(attend, static_argnums=3)(query, pages, step, rule, vectors), np.float32
    )
    interpret = pltpu.InterpretParams(detect_races=True)
    actual = np.asarray(
        ragged_attention(query, pages, step, rule, vectors, interpret=interpret), np.float32
    )
    count = step.cu_query_lens[-1]
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(
        actual[:count], expected[:count], atol=1e-5 if dtype == "float32" else 2e-2
    )


def test_model_with_the_kernel(races: None) -> None:
    """Two layers share one array, and each reads its own blocks."""
    spec = spec_of("gpt_oss")
    weights = draw_weights(spec)
    plan = AttentionPlan(make_mesh(1, "cpu"), "pallas", interpret=True)
    runner = Runner(
        spec,
        parameters_of(spec, weights),
        plan,
        num_blocks=5,
        block_size=8,
        tokens=12,
        sequences=2,
        width=2,
    )
    first, second = Sequence(list(range(20, 30)), [4, 1]), Sequence([9, 8, 7], [3])
    runner.step([(first, 9), (second, 2)])
    runner.step([(first, 1), (second, 1)])
    for sequence in (first, second):
        expected = reference_logits(spec, weights, sequence.token_ids)
        np.testing.assert_allclose(np.stack(sequence.logits), expected, atol=1e-4)


def test_the_choice_of_an_implementation() -> None:
    def chosen(variant: str, **options: str) -> tuple[str, dict[str, str | None]]:
        wanted = {"platform": "tpu", "dtype": "bfloat16"} | options
        found = attention_candidates(spec_of(variant), 1, block_size=32, **wanted)
        (kernel,) = (candidate.kernel for candidate in found if candidate.reason is None)
        return kernel, {candidate.kernel: candidate.reason for candidate in found}

    assert chosen("llama") == (
        "jax",
        {"jax": None, "pallas": "jax is preferred", "xla": "jax is preferred"},
    )
    kernel, reasons = chosen("falcon-alibi")
    assert (kernel, reasons["jax"]) == ("pallas", "it has no ALiBi")
    assert chosen("gpt_oss")[1]["jax"] == "it has no attention sinks"
    kernel, reasons = chosen("llama", platform="cpu")
    assert kernel == "xla" and reasons["jax"] == "it is compiled for TPUs, and the platform is cpu"
    assert chosen("mpt-clipped", dtype="float16")[0] == "xla"
