"""Latent attention, state-space and encoder-decoder models compared with `transformers`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.backends.mixer_checkpoints import DECODERS, VARIANTS, VOCAB_SIZE, save_mixer_variant
from tests.backends.paged_batch import PagedSequence, step
from tgi.architectures import ModelSpec, load_spec
from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import Decoder, build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

BLOCK_SIZE = 4
NUM_BLOCKS = 128
TOLERANCE = 1e-4  # of logits whose standard deviation is about 1


@dataclass(frozen=True)
class Pair:
    reference: PreTrainedModel
    decoder: Decoder

    def expected(self, sequence: PagedSequence) -> Tensor:
        """Compute the logits of `transformers`, [T, vocab]."""
        tokens = torch.tensor([sequence.token_ids])
        if self.decoder.encoder is None:
            return self.reference(tokens).logits[0].float()
        encoder_tokens = torch.tensor([sequence.encoder_token_ids])
        return self.reference(input_ids=encoder_tokens, decoder_input_ids=tokens).logits[0].float()

    def cache(self) -> KVCache:
        """An empty cache full of NaN, so that reading an unwritten place is detected."""
        decoder = self.decoder
        cache = KVCache.allocate(
            decoder.spec,
            NUM_BLOCKS,
            BLOCK_SIZE,
            decoder.dtype,
            decoder.device,
            num_states=NUM_BLOCKS,
        )
        for layer in (*cache.layers, *cache.cross_layers):
            layer.key.fill_(float("nan"))
            layer.value.fill_(float("nan"))
        for state in cache.states:
            state.window.fill_(float("nan"))
            state.recurrent.fill_(float("nan"))
        return cache

    def check(self, *sequences: PagedSequence) -> None:
        for sequence in sequences:
            expected = self.expected(sequence)[: len(sequence.logits)]
            assert len(sequence.logits) == len(sequence.token_ids)
            assert expected.std() > 0.1
            assert float((torch.stack(sequence.logits) - expected).abs().max()) < TOLERANCE


@dataclass
class Drawing:
    """Draws sequences with scattered blocks.

    Block 0 is not used, so that padding points to a block that was never written.
    """

    rng: random.Random
    blocks: list[int]

    @classmethod
    def of(cls, seed: int) -> Drawing:
        rng = random.Random(seed)
        return cls(rng, rng.sample(range(1, NUM_BLOCKS), NUM_BLOCKS - 1))

    def tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(VOCAB_SIZE) for _ in range(count)]

    def table(self, num_tokens: int) -> list[int]:
        return [self.blocks.pop() for _ in range(-(-num_tokens // BLOCK_SIZE))]

    def sequence(self, pair: Pair, length: int, encoder_length: int = 9) -> PagedSequence:
        encoder_length = encoder_length if pair.decoder.encoder is not None else 0
        return PagedSequence(
            self.tokens(length),
            self.table(length),
            encoder_token_ids=self.tokens(encoder_length),
            cross_table=self.table(encoder_length),
        )


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def load(name: str, path: Path) -> Pair:
    reference = save_mixer_variant(name, path)
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    decoder = build_decoder(spec, REFERENCE, torch.float32, "cpu")
    load_weights(decoder, path, lambda done, total: None)
    return Pair(reference, decoder)


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load(request.param, tmp_path_factory.mktemp(request.param))


# One token, a whole block, and more tokens than a chunk of a scan.
@pytest.mark.parametrize("length", [1, BLOCK_SIZE, 71])
def test_whole_prefill(pair: Pair, length: int) -> None:
    sequence = Drawing.of(length).sequence(pair, length, encoder_length=max(1, length - 40))
    step(pair.decoder, pair.cache(), [(sequence, length)])
    pair.check(sequence)


def test_prefill_in_random_chunks(pair: Pair) -> None:
    drawing, cache = Drawing.of(3), pair.cache()
    sequence = drawing.sequence(pair, 37)
    while sequence.num_computed_tokens < 37:
        step(
            pair.decoder,
            cache,
            [(sequence, drawing.rng.randint(1, min(9, 37 - sequence.num_computed_tokens)))],
        )
    pair.check(sequence)


def test_mixed_steps_of_different_lengths(pair: Pair) -> None:
    drawing, cache = Drawing.of(6), pair.cache()
    lengths = (1, 4, 21, 8, 2, 13, 6)
    sequences = [
        drawing.sequence(pair, length + 5, 1 + 3 * index) for index, length in enumerate(lengths)
    ]
    late = drawing.sequence(pair, 11, 300)
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
    step(pair.decoder, cache, [(late, 5), *((sequence, 1) for sequence in reversed(sequences))])
    for _ in range(3):
        step(pair.decoder, cache, [(sequence, 1) for sequence in sequences])
    pair.check(*sequences, late)


@pytest.mark.parametrize(
    "name", [name for name in DECODERS if name.startswith(("deepseek", "glm"))]
)
def test_prefix_of_another_sequence(name: str, tmp_path: Path) -> None:
    pair, drawing = load(name, tmp_path), Drawing.of(5)
    first, second = drawing.sequence(pair, 15), drawing.sequence(pair, 23)
    second.token_ids[:12], second.block_table[:3] = first.token_ids[:12], first.block_table[:3]
    cache = pair.cache()
    step(pair.decoder, cache, [(first, 15)])
    second.num_computed_tokens, second.logits = 12, first.logits[:12]
    step(pair.decoder, cache, [(second, 11)])
    pair.check(first, second)


def test_copied_blocks_of_latent_vectors(tmp_path: Path) -> None:
    """The copies form a chain: a block that is written was read before."""
    pair, drawing = load("deepseek_v3", tmp_path), Drawing.of(7)
    sequence, cache = drawing.sequence(pair, 12), pair.cache()
    step(pair.decoder, cache, [(sequence, 8)])
    first, second, third = sequence.block_table
    (free,) = drawing.table(1)
    cache.copy_blocks(torch.tensor([first, second]), torch.tensor([second, free]))
    sequence.block_table = [second, free, third]
    step(pair.decoder, cache, [(sequence, 4)])
    pair.check(sequence)


@pytest.mark.parametrize(
    "name",
    [
        "bamba-biases",
        "deepseek_v2-plain",
        "deepseek_v3",
        "falcon_h1-biases",
        "falcon_mamba-biases",
        "jamba",
        "lfm2-biases",
        "mamba",
        "mamba2",
        "nemotron_h-experts",
        "qwen3_5_text-biases",
        "qwen3_next-biases",
        "recurrent_gemma",
        "t5",
        "t5-untied",
    ],
)
def test_every_parameter_counts(name: str, tmp_path: Path) -> None:
    """The comparison detects any single parameter that is lost (zeroed) or shifted."""
    pair = load(name, tmp_path)
    whole = Drawing.of(9).sequence(pair, 23, 29)
    expected = pair.expected(whole)

    def distance() -> float:
        sequence = PagedSequence(
            whole.token_ids, whole.block_table, 0, [], whole.encoder_token_ids, whole.cross_table
        )
        step(pair.decoder, pair.cache(), [(sequence, 23)])
        return float((torch.stack(sequence.logits) - expected).abs().max())

    assert distance() < TOLERANCE
    for name, parameter in pair.decoder.parameters.by_parameter.items():
        kept = parameter.clone()
        parameter.zero_()
        assert distance() > TOLERANCE, f"the loss of {name} is not detected"
        parameter.copy_(kept.roll(1, 0))
        assert parameter.shape[0] == 1 or distance() > TOLERANCE, (
            f"a shift of {name} is not detected"
        )
        parameter.copy_(kept)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_numpy_reference(name: str, tmp_path: Path) -> None:
    pair = load(name, tmp_path)
    sequence = Drawing.of(11).sequence(pair, 40, 30)
    weights = read_weights(pair.decoder.spec, tmp_path)
    logits = reference_logits(
        pair.decoder.spec, weights, sequence.token_ids, sequence.encoder_token_ids
    )
    expected = pair.expected(sequence)
    assert float((torch.from_numpy(logits) - expected).abs().max()) < TOLERANCE
    for parameter in weights:
        lost = weights | {parameter: np.zeros_like(weights[parameter])}
        changed = reference_logits(
            pair.decoder.spec, lost, sequence.token_ids[:20], sequence.encoder_token_ids
        )
        assert np.abs(changed - logits[:20]).max() > TOLERANCE, parameter
