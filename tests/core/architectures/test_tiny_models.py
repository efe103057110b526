"""Tiny checkpoints: our loader reads them, they are reproducible, and their logits are finite and
differ between positions.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights
from tgi.testing.tiny_models import FAMILIES, RECURRENT, write_tiny_model


@pytest.mark.parametrize("family", FAMILIES | RECURRENT)
def test_tiny_model_runs(family: str, tmp_path: Path) -> None:
    spec = write_tiny_model(tmp_path, family)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "The fox's größte 😀 river\n"
    token_ids = tokenizer.encode(text).ids

    logits = reference_logits(spec, read_weights(spec, tmp_path), token_ids)

    assert tokenizer.decode(token_ids) == text
    assert logits.shape == (len(token_ids), spec.vocab_size)
    assert np.isfinite(logits).all()
    assert len(set(logits.argmax(axis=-1).tolist())) > 1


def test_the_same_arguments_write_the_same_bytes(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> dict[str, str]:
        write_tiny_model(tmp_path / name, seed=seed)
        return {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in (tmp_path / name).iterdir()
        }

    first, again, other = digests("first", 0), digests("again", 0), digests("other", 1)
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}
