"""The numpy reference for the complete backend: adapters, images, pooling and a token cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from tgi.architectures import ModelSpec
from tgi.backend import Float32Array, Int32Array, NewSequence
from tgi.testing.reference.model import Weights, reference_hidden, reference_logits
from tgi.testing.reference.weights import read_weights, tensor_names
from tgi.testing.tiny_adapters import merge_adapter, read_adapter
from tgi.testing.tiny_images import image_vectors, read_projector

__all__ = ["ReferenceNetwork", "TokenCache", "pool"]


@final
class ReferenceNetwork:
    """Computes whole sequences.

    For each loaded adapter, a merged copy of the model's weights is stored. Adapter 0 is the model
    without an adapter.
    """

    def __init__(self, spec: ModelSpec, model_path: Path) -> None:
        self.spec = spec
        self.model_path = model_path
        self._weights: dict[int, Weights] = {}
        self._ranks: dict[int, int] = {}
        self._projector: Float32Array | None = None

    @property
    def adapters(self) -> frozenset[int]:
        """Numbers of the loaded adapters, including 0."""
        return frozenset(self._weights)

    @property
    def has_images(self) -> bool:
        """Whether the model accepts images."""
        return self._projector is not None

    @property
    def has_encoder(self) -> bool:
        """Whether the model has an encoder."""
        return len(self.spec.stacks) > 1

    def load(self) -> None:
        """Read the checkpoint. Raises `ModelError`."""
        self._weights[0] = read_weights(self.spec, self.model_path)
        self._projector = read_projector(self.model_path)

    def release(self) -> None:
        """Release the weights of the model and all merged copies."""
        self._weights.clear()

    def load_adapter(self, number: int, path: Path, max_rank: int) -> None:
        """Merge an adapter into a copy of the weights.

        Raises `ModelError`, or ValueError if its rank is greater than `max_rank`.
        """
        adapter = read_adapter(path)
        if adapter.rank > max_rank:
            raise ValueError(f"the adapter has rank {adapter.rank}; the maximum is {max_rank}")
        self._weights[number] = merge_adapter(
            self.spec, self._weights[0], tensor_names(self.model_path), adapter
        )

    def unload_adapter(self, number: int) -> None:
        """Release the weights of an adapter."""
        del self._weights[number]

    def logits(
        self, new: NewSequence, tokens: Int32Array, encoder_tokens: Int32Array, first: int = 0
    ) -> Float32Array:
        """The logits after the sequence's token `first` and each later token,
        [T - first, vocab_size].
        """
        arguments = (tokens.tolist(), encoder_tokens.tolist(), self._vectors(new, len(tokens)))
        return reference_logits(self.spec, self._weights[new.adapter], *arguments, first=first)

    def hidden(self, new: NewSequence, tokens: Int32Array) -> Float32Array:
        """The hidden vectors after the final norm, [T, hidden_size]."""
        return reference_hidden(
            self.spec,
            self._weights[new.adapter],
            tokens.tolist(),
            (),
            self._vectors(new, len(tokens)),
        )

    def _vectors(self, new: NewSequence, num_tokens: int) -> dict[int, Float32Array]:
        if self._projector is None or not new.media:
            return {}
        vectors = image_vectors(self._projector, new.media)
        return {position: vector for position, vector in vectors.items() if position < num_tokens}


@final
class TokenCache:
    """A cache that stores tokens instead of keys and values.

    Each slot contains the token that was written to it. A wrong cache access therefore changes the
    input tokens, and a test detects the wrong output.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._slots = np.zeros((num_blocks, block_size), np.int32)

    def write(self, table: Int32Array, start: int, tokens: Sequence[int] | Int32Array) -> None:
        """Write tokens of a sequence, beginning at position `start`, to the blocks of its table."""
        positions = np.arange(start, start + len(tokens))
        size = self._slots.shape[1]
        self._slots[table[positions // size], positions % size] = tokens

    def read(self, table: Int32Array, num_tokens: int) -> Int32Array:
        """Read the first `num_tokens` tokens of a sequence."""
        found: Int32Array = self._slots[table].reshape(-1)[:num_tokens]
        return found

    def copy(self, source: Int32Array, target: Int32Array) -> None:
        """Copy whole blocks."""
        self._slots[target] = self._slots[source]

    def export(self, blocks: Sequence[int]) -> bytes:
        """Return the content of some blocks as bytes."""
        return self._slots[list(blocks)].astype("<i4").tobytes()

    def restore(self, blocks: Sequence[int], data: bytes) -> None:
        """Fill blocks with exported content. Raises ValueError if the number of blocks differs."""
        self._slots[list(blocks)] = np.frombuffer(data, "<i4").reshape(len(blocks), -1)


def pool(hidden: Float32Array, pooling: str) -> Float32Array:
    """Pool the hidden vectors of a text [T, hidden_size] to one vector [hidden_size]."""
    vector: Float32Array = (
        hidden.mean(axis=0) if pooling == "mean" else hidden[0 if pooling == "first" else -1]
    )
    return vector
