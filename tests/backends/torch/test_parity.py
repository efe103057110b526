"""The decoder compared with `transformers`, for every branch of the families."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.backends.checkpoints import FAMILIES, VARIANTS, save_checkpoint, save_variant
from tests.backends.paged_batch import PagedSequence, step
from tgi.architectures import Attention, ModelSpec, load_spec
from tgi.architectures.parameter_names import mixer_of
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import Decoder, build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

BLOCK_SIZE = 4
NUM_BLOCKS = 64
TOLERANCE = 1e-4  # of logits whose standard deviation is about 1

# With these ropes the frequencies of a sequence change when it grows beyond its prompt, so only
# short sequences can be compared.
GROWING = {"llama-dynamic", "phi3-longer"}

# Rounding may change the chosen expert in a near tie, and another expert gives other logits.
ROUTED = {
    "cohere2_moe",
    "dbrx",
    "ernie4_5_moe",
    "exaone_moe",
    "glm4_moe",
    "gpt_oss",
    "granitemoe",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "llama4_text",
    "mimo_v2_flash",
    "minimax_m2",
    "mixtral",
    "olmoe",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    "solar_open",
}


@dataclass(frozen=True)
class Pair:
    reference: PreTrainedModel
    decoder: Decoder
    spec: ModelSpec

    def expected(self, token_ids: list[int]) -> Tensor:
        """Compute the logits of `transformers`, [T, vocab]."""
        return self.reference(torch.tensor([token_ids])).logits[0].float()

    def cache(self) -> KVCache:
        """An empty cache full of NaN, so that reading an unwritten place is detected."""
        parameters = self.decoder.parameters
        cache = KVCache.allocate(
            self.spec, NUM_BLOCKS, BLOCK_SIZE, parameters.dtype, parameters.device
        )
        for layer in cache.layers:
            layer.key.fill_(float("nan"))
            layer.value.fill_(float("nan"))
        return cache


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def load(path: Path, dtype: torch.dtype = torch.float32) -> tuple[ModelSpec, Decoder]:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    decoder = build_decoder(spec, REFERENCE, dtype, "cpu")
    load_weights(decoder, path, lambda done, total: None)
    return spec, decoder


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pair(variant: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp(variant)
    reference = save_variant(variant, path)
    spec, decoder = load(path)
    return Pair(reference, decoder, spec)


def draw_tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(101) for _ in range(count)]


def tables(rng: random.Random, *counts: int) -> list[list[int]]:
    """Disjoint tables of scattered blocks.

    Block 0 is not used, so that padding points to a block that was never written.
    """
    blocks = rng.sample(range(1, NUM_BLOCKS), sum(counts))
    return [[blocks.pop() for _ in range(count)] for count in counts]


def worst(actual: list[Tensor], expected: Tensor) -> float:
    return float((torch.stack(actual) - expected).abs().max())


@pytest.mark.parametrize("length", [1, BLOCK_SIZE, 23])
def test_whole_prefill(pair: Pair, length: int) -> None:
    rng = random.Random(length)
    sequence = PagedSequence(draw_tokens(rng, length), tables(rng, 6)[0])
    step(pair.decoder, pair.cache(), [(sequence, length)])
    assert worst(sequence.logits, pair.expected(sequence.token_ids)) < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_prefill_in_random_chunks(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    length = 37
    sequence = PagedSequence(draw_tokens(rng, length), tables(rng, 10)[0], num_prompt_tokens=length)
    cache = pair.cache()
    while sequence.num_computed_tokens < length:
        step(
            pair.decoder,
            cache,
            [(sequence, rng.randint(1, min(9, length - sequence.num_computed_tokens)))],
        )
    assert worst(sequence.logits, pair.expected(sequence.token_ids)) < TOLERANCE


def test_prefix_of_another_sequence(pair: Pair, variant: str) -> None:
    rng = random.Random(5)
    own, shared = (1, 2) if variant in GROWING else (4, 3)
    prefix, (common, first_own, second_own) = (
        draw_tokens(rng, shared * BLOCK_SIZE),
        tables(rng, shared, own, own),
    )
    first = PagedSequence(prefix + draw_tokens(rng, 3), common + first_own)
    second = PagedSequence(prefix + draw_tokens(rng, own * BLOCK_SIZE - 1), common + second_own)
    cache = pair.cache()
    step(pair.decoder, cache, [(first, len(first.token_ids))])
    second.num_computed_tokens = len(prefix)
    step(pair.decoder, cache, [(second, len(second.token_ids) - len(prefix))])
    assert worst(second.logits, pair.expected(second.token_ids)[len(prefix) :]) < TOLERANCE


def test_mixed_steps_of_different_lengths(pair: Pair, variant: str) -> None:
    rng = random.Random(6)
    lengths = (1, 4, 9, 5, 2, 8) if variant in GROWING else (1, 4, 21, 8, 2, 30)
    *block_tables, late_table = tables(rng, 2, 3, 7, 4, 2, 9, 3)
    sequences = [
        PagedSequence(draw_tokens(rng, length + 5), table)
        for length, table in zip(lengths, block_tables, strict=True)
    ]
    late = PagedSequence(draw_tokens(rng, 11), late_table)
    cache = pair.cache()
    step(
        pair.decoder,
        cache,
        [(sequence, length) for sequence, length in zip(sequences, lengths, strict=True)],
    )
    step(
        pair.decoder,
        cache,
        [(sequences[0], 1), (late, 6), *((sequence, 1) for sequence in sequences[1:])],
    )
    step(pair.decoder, cache, [(late, 2), *((sequence, 1) for sequence in reversed(sequences))])
    for _ in range(3):  # a batch of seven
        step(pair.decoder, cache, [(sequence, 1) for sequence in [*sequences, late]])
    for sequence in [*sequences, late]:
        assert worst(sequence.logits, pair.expected(sequence.token_ids)) < TOLERANCE


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - ROUTED))
def test_bfloat16(family: str, tmp_path: Path) -> None:
    """The allowed error is the reference's own rounding error, its distance from float32.

    The two implementations round in different places.
    """
    exact = save_checkpoint(family, tmp_path / "exact")
    rounded = save_checkpoint(family, tmp_path / "rounded", dtype=torch.bfloat16)
    spec, decoder = load(tmp_path / "rounded", torch.bfloat16)
    pair = Pair(rounded, decoder, spec)
    sequence = PagedSequence(draw_tokens(random.Random(8), 23), list(range(1, 7)))
    step(decoder, pair.cache(), [(sequence, 23)])
    true = exact(torch.tensor([sequence.token_ids])).logits[0]
    rounding = float((pair.expected(sequence.token_ids) - true).abs().max())
    assert 0 < worst(sequence.logits, true) < 2 * rounding


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_parameter_counts(name: str, tmp_path: Path) -> None:
    """The comparison detects any single parameter that is lost (zeroed) or shifted."""
    reference = save_variant(name, tmp_path)
    spec, decoder = load(tmp_path)
    pair = Pair(reference, decoder, spec)
    token_ids = draw_tokens(random.Random(9), 23)
    expected = pair.expected(token_ids)

    def distance() -> float:
        sequence = PagedSequence(token_ids, list(range(1, 7)))
        step(decoder, pair.cache(), [(sequence, len(token_ids))])
        return worst(sequence.logits, expected)

    assert distance() < TOLERANCE
    for parameter_name, parameter in decoder.parameters.by_parameter.items():
        mixer = mixer_of(parameter_name, spec)
        if (
            parameter_name.endswith("attention.k.bias")
            and isinstance(mixer, Attention)
            and mixer.rope is None
        ):
            # A key bias adds the same to all scores of a query unless keys are rotated, and a
            # softmax ignores that.
            continue
        kept = parameter.clone()
        parameter.zero_()
        assert distance() > TOLERANCE, f"the loss of {parameter_name} is not detected"
        if kept.numel() == 1:
            continue  # a shift has no effect
        parameter.copy_(kept.roll(1, 0 if len(kept) > 1 else -1))
        assert distance() > TOLERANCE, f"a shift of {parameter_name} is not detected"
        parameter.copy_(kept)
