"""The numpy reference for the complete backend: adapters, images and pooling."""

from __future__ import annotations

from pathlib import Path
from typing import final

from tgi.architectures import ModelSpec
from tgi.backend import Float32Array, Int32Array, NewSequence
from tgi.testing.reference.model import Weights, reference_hidden, reference_logits
from tgi.testing.reference.weights import read_weights, tensor_names
from tgi.testing.tiny_adapters import merge_adapter, read_adapter
from tgi.testing.tiny_images import image_vectors, read_projector

__all__ = ["ReferenceNetwork", "pool"]


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


def pool(hidden: Float32Array, pooling: str) -> Float32Array:
    """Pool the hidden vectors of a text [T, hidden_size] to one vector [hidden_size]."""
    vector: Float32Array = (
        hidden.mean(axis=0) if pooling == "mean" else hidden[0 if pooling == "first" else -1]
    )
    return vector
