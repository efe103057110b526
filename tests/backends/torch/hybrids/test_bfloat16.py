"""Logits of hybrids in bfloat16: the error is compared with the error of `transformers`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.backends.mixer_checkpoints import VOCAB_SIZE, save_mixer_variant
from tests.backends.paged_batch import PagedSequence, step
from tests.backends.published_hybrids import PUBLISHED_HYBRIDS
from tgi.architectures import ModelSpec, load_spec
from tgi_torch.attention.kv_cache import KVCache
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights.loading import load_weights

# One sequence is longer than a chunk of a scan.
LENGTHS = (90, 23, 5)
NUM_DECODED = 4
BLOCK_SIZE = 4


@dataclass(frozen=True)
class Errors:
    """Root mean squares of the distances from the logits in float32."""

    own: float
    of_transformers: float


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def served_logits(path: Path, sequences: list[PagedSequence]) -> None:
    """Compute the prompts in chunks and the last tokens in decode steps."""
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    decoder = build_decoder(spec, REFERENCE, torch.bfloat16, "cpu")
    load_weights(decoder, path, lambda done, total: None)
    cache = KVCache.allocate(
        spec, 64, BLOCK_SIZE, torch.bfloat16, torch.device("cpu"), num_states=64
    )
    prompts = [len(sequence.token_ids) - NUM_DECODED for sequence in sequences]
    step(
        decoder,
        cache,
        [(sequence, 1 + n // 2) for sequence, n in zip(sequences, prompts, strict=True)],
    )
    step(
        decoder,
        cache,
        [
            (sequence, n - sequence.num_computed_tokens)
            for sequence, n in zip(sequences, prompts, strict=True)
            if n > sequence.num_computed_tokens
        ],
    )
    for _ in range(NUM_DECODED):
        step(decoder, cache, [(sequence, 1) for sequence in sequences])


def errors_of(name: str, path: Path) -> Errors:
    exact = save_mixer_variant(name, path / "exact")
    rounded = save_mixer_variant(name, path / "rounded").to(torch.bfloat16)
    # The grouped products of torch require larger sizes.
    rounded.set_experts_implementation("eager")
    rounded.save_pretrained(path / "rounded")
    rng, sequences, first = random.Random(8), [], 1
    for length in LENGTHS:
        count = -(-length // BLOCK_SIZE)
        tokens = [rng.randrange(VOCAB_SIZE) for _ in range(length)]
        sequences.append(PagedSequence(tokens, list(range(first, first + count))))
        first += count
    served_logits(path / "rounded", sequences)

    def logits(model: torch.nn.Module) -> Tensor:
        return torch.cat([model(torch.tensor([s.token_ids])).logits[0].float() for s in sequences])

    expected = logits(exact)
    own = torch.stack([row for sequence in sequences for row in sequence.logits])
    return Errors(_rms(own - expected), _rms(logits(rounded) - expected))


def _rms(distance: Tensor) -> float:
    return float(distance.square().mean().sqrt())


@pytest.mark.parametrize("name", sorted([*PUBLISHED_HYBRIDS, "mamba", "mamba2", "qwen3_next"]))
def test_error_of_bfloat16(name: str, tmp_path: Path) -> None:
    """The two implementations round in different places, so that their errors differ a little."""
    errors = errors_of(name, tmp_path)
    assert 0 < errors.own < 1.1 * errors.of_transformers
