"""Attention over the paged cache equals the reference in float64, on random rows and layouts."""

from dataclasses import dataclass, replace
from random import Random

import pytest
import torch

from tests.backends.paged_batch import metadata_of
from tests.backends.triton.interpreter import checked
from tgi_torch.attention import paged
from tgi_torch.attention.key_range import KeyRange
from tgi_torch.attention.kv_cache import LayerCache
from tgi_triton import attention

NUM_CASES = 60
OPERATION = attention.PagedAttention()
SMALL_PARTS = attention.PagedAttention(part_keys=32)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.02, torch.float16: 0.003}


@dataclass(frozen=True)
class Case:
    """One step and one layer."""

    query: torch.Tensor
    cache: LayerCache
    metadata: paged.AttentionMetadata
    key_range: KeyRange
    settings: paged.AttentionSettings

    def expected(self):
        cache = LayerCache(self.cache.key.double(), self.cache.value.double())
        plan = paged.plan_attention(self.metadata, cache.key.shape[1], self.key_range)
        return paged.paged_attention(self.query.double(), cache, plan, self.settings)

    def check(self, operation=OPERATION):
        plan = attention.plan_attention(self.metadata, self.cache.key.shape[1], self.key_range)
        actual = operation(self.query, self.cache, plan, self.settings)
        expected = self.expected()
        error = (actual.double() - expected).abs().max().item()
        limit = TOLERANCE[self.query.dtype] * max(1.0, expected.abs().max().item())
        # NaN is not within the limit.
        assert error <= limit, (error, limit)


def rows_of(random, block_size):
    """Rows with blocks in random order, and the number of blocks. Block 0 belongs to no row."""
    rows, num_blocks = [], 1
    for _ in range(random.randint(1, 4)):
        first = random.choice([0, 0, random.randint(1, 150)])
        count = random.choice([1, 1, random.randint(2, 40)])
        needed = -(-(first + count) // block_size)
        rows.append((range(num_blocks, num_blocks + needed), first, count))
        num_blocks += needed
    order = [0, *random.sample(range(1, num_blocks), num_blocks - 1)]
    return [([order[block] for block in table], *rest) for table, *rest in rows], num_blocks


def random_case(seed, dtype=torch.float32, **fixed):
    random, draws = Random(seed), torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draws)

    heads = fixed.get("heads") or (random.choice([1, 2, 3]), random.choice([1, 2, 5, 8, 16]))
    size = fixed.get("size") or random.choice([16, 64, 80, 96, 128, 192, 256])
    value_size = random.choice([size, size, 32])
    block_size = random.choice([1, 4, 16, 32])
    num_kv_heads, group = heads
    rows, num_blocks = rows_of(random, block_size)
    metadata = metadata_of(rows, block_size)
    key = normal(num_blocks, block_size, num_kv_heads, size).to(dtype)
    value = normal(num_blocks, block_size, num_kv_heads, value_size).to(dtype)
    # A slot that no row may read would make the result NaN.
    key[0], value[0] = float("nan"), float("nan")
    query = normal(len(metadata.positions), num_kv_heads * group, size).to(dtype)
    settings = paged.AttentionSettings(
        scale=size**-0.5,
        softcap=random.choice([None, None, 20.0]),
        alibi_slopes=random.choice([None, None, torch.rand(num_kv_heads * group)]),
        sinks=random.choice([None, None, normal(num_kv_heads * group)]),
    )
    return Case(
        query,
        LayerCache(key, value),
        metadata,
        KeyRange(random.choice([None, None, 1, 7, 64])),
        settings,
    )


@pytest.mark.parametrize("seed", range(NUM_CASES))
def test_random_steps(seed):
    with checked():
        random_case(seed).check(SMALL_PARTS if seed % 2 else OPERATION)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(8))
def test_dtypes_of_16_bits(seed, dtype):
    case = random_case(seed, dtype)
    with checked():
        case.check()


@pytest.mark.parametrize("num_heads", [1, 16, 20])
def test_latent_attention(num_heads):
    """The value of a token is the first part of its key."""
    case = random_case(3, heads=(1, num_heads), size=96)
    key = case.cache.key
    case = replace(
        case, cache=LayerCache(key, key[..., :64]), settings=paged.AttentionSettings(scale=0.1)
    )
    with checked():
        case.check()


def test_a_long_context_is_read_once():
    """All heads of a group share one read of the keys and values, and no other data is read."""
    metadata = metadata_of([(list(range(1, 33)), 511, 1)], 16)
    key, value = (torch.randn(33, 16, 2, 64) for _ in range(2))
    case = Case(
        torch.randn(1, 16, 64),
        LayerCache(key, value),
        metadata,
        KeyRange(),
        paged.AttentionSettings(scale=0.125),
    )
    with checked() as traffic:
        case.check()
    cache_bytes = 2 * 512 * 2 * 64 * 4
    minimum = cache_bytes + 2 * case.query.nbytes
    assert traffic.loaded + traffic.stored <= 1.1 * minimum


def test_attention_in_chunks_is_rejected():
    metadata = metadata_of([([1], 0, 1)], 16)
    with pytest.raises(ValueError, match="in chunks is not supported"):
        attention.plan_attention(metadata, 16, KeyRange(chunk=4))
