"""Tiny checkpoints with their numpy reference. Each checkpoint is created only once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from tgi.architectures import ModelSpec
from tgi.backend import Dtype, Float32Array, MediaInput, Pooling
from tgi.testing.reference.model import Weights, reference_hidden, reference_logits
from tgi.testing.reference.network import pool
from tgi.testing.reference.operations import rounding_to
from tgi.testing.reference.weights import read_weights, tensor_names
from tgi.testing.tiny_adapters import merge_adapter, read_adapter, write_adapter
from tgi.testing.tiny_images import image_vectors, read_projector, write_projector
from tgi.testing.tiny_models import write_tiny_model

__all__ = ["LARGE", "TinyModel", "TinyModels"]

LARGE: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 70_000,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "max_position_embeddings": 4096,
    }
)
"""The sizes of the large model. The vocabulary does not fit into 16 bits."""

_FLOAT32_TOLERANCE = 2e-4
_ROUNDING_FACTOR = 8.0
"""Maximum error of a logit in 16 bits, in root mean square errors of the reference in 16 bits. Of
10,000 logits with normally distributed errors, the largest error is about 4 of them.
"""

_TOLERANCE_TOKENS = 64  # length of the text that the reference computes in 16 bits
_MOST_CACHED_LOGITS = 1 << 22


@final
class TinyModel:
    """A checkpoint and its numpy reference."""

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        self.path = path
        self.spec = spec
        self.weights: Weights = read_weights(spec, path)
        self._projector = read_projector(path)
        self._logits: dict[tuple[object, ...], Float32Array] = {}
        self._tolerances: dict[Dtype, float] = {"float32": _FLOAT32_TOLERANCE}

    def logits(
        self,
        token_ids: Sequence[int],
        encoder_tokens: Sequence[int] = (),
        media: Sequence[MediaInput] = (),
        *,
        first: int = 0,
    ) -> Float32Array:
        """Compute the logits after token `first` and each later token, float32
        [T - first, vocab_size].
        """
        key = (
            first,
            *token_ids,
            None,
            *encoder_tokens,
            None,
            *((item.start, item.pixels.tobytes()) for item in media),
        )
        if key not in self._logits:
            if len(self._logits) > 64:
                self._logits.clear()
            vectors = {} if self._projector is None else image_vectors(self._projector, media)
            vectors = {
                position: vector
                for position, vector in vectors.items()
                if position < len(token_ids)
            }
            logits = reference_logits(
                self.spec, self.weights, token_ids, encoder_tokens, vectors, first=first
            )
            if logits.size > _MOST_CACHED_LOGITS:
                return logits
            self._logits[key] = logits
        return self._logits[key]

    def tolerance(self, dtype: Dtype) -> float:
        """Return the maximum error of a logit in this dtype.

        A dtype of 16 bits loses accuracy at every layer. A run of the reference in this dtype shows
        the loss, and the tolerance is a multiple of it.
        """
        if dtype not in self._tolerances:
            tokens = np.random.default_rng(0).integers(4, 300, _TOLERANCE_TOKENS).tolist()
            encoder_tokens = tokens if len(self.spec.stacks) > 1 else ()
            exact = reference_logits(self.spec, self.weights, tokens, encoder_tokens)
            rounding = rounding_to(dtype)
            weights = {name: rounding(array) for name, array in self.weights.items()}
            rounded = reference_logits(
                self.spec, weights, tokens, encoder_tokens, rounding=rounding
            )
            error = float(np.sqrt(np.nanmean(np.square(rounded - exact))))
            self._tolerances[dtype] = max(_FLOAT32_TOLERANCE, _ROUNDING_FACTOR * error)
        return self._tolerances[dtype]

    def pooled(self, token_ids: Sequence[int], pooling: Pooling) -> Float32Array:
        """Compute the pooled vector of a text, float32 [hidden_size]."""
        return pool(reference_hidden(self.spec, self.weights, token_ids), pooling)

    def write_adapter(self, path: Path, **options: Any) -> Path:  # noqa: ANN401 - those of `tiny_adapters.write_adapter`
        """Write a random adapter for this model and return its folder."""
        return write_adapter(path, self.spec, tensor_names(self.path), **options)

    def merged(self, adapter: Path) -> TinyModel:
        """Return a reference whose weights include the adapter."""
        model = TinyModel(self.path, self.spec)
        model.weights = merge_adapter(
            self.spec, self.weights, tensor_names(self.path), read_adapter(adapter)
        )
        return model

    def copy_to(self, path: Path) -> Path:
        """Copy the checkpoint, so that a check may damage the copy."""
        path.mkdir(parents=True, exist_ok=True)
        for file in self.path.iterdir():
            if file.is_file():
                (path / file.name).write_bytes(file.read_bytes())
        return path


@final
class TinyModels:
    """Tiny models for the different purposes of the checks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, TinyModel] = {}

    def get(self, family: str = "llama", **overrides: Any) -> TinyModel:  # noqa: ANN401 - fields of config.json
        """Return a model of `family`. `overrides` are `dtype` and fields of config.json."""
        key = json.dumps([family, overrides], sort_keys=True)
        if key not in self._models:
            path = self._folder / f"model-{len(self._models)}"
            self._models[key] = TinyModel(path, write_tiny_model(path, family, **overrides))
        return self._models[key]

    def tied(self) -> TinyModel:
        """A model in which every token has at least eleven others with exactly the same logit.

        The head row of token t is that of t modulo the hidden size. Each head row contains a single
        1, so that the sum is exact in any order.
        """

        def edit(tensors: dict[str, npt.NDArray[np.float32]]) -> None:
            rows, hidden = tensors["lm_head.weight"].shape
            tensors["lm_head.weight"] = np.eye(hidden, dtype=np.float32)[np.arange(rows) % hidden]

        return self._edited("tied", edit)

    def large(self) -> TinyModel:
        """A model with a large vocabulary, large heads and many layers."""
        return self.get("llama", **LARGE)

    def flat(self) -> TinyModel:
        """A model in which every token has the logit 0 after every text."""

        def edit(tensors: dict[str, npt.NDArray[np.float32]]) -> None:
            tensors["lm_head.weight"][:] = 0

        return self._edited("flat", edit)

    def poisoned(self, token: int | None) -> TinyModel:
        """Return a model in which only the embedding of `token` is NaN. If `token` is None, the
        embeddings of all tokens are NaN.
        """

        def edit(tensors: dict[str, npt.NDArray[np.float32]]) -> None:
            tensors["model.embed_tokens.weight"][slice(None) if token is None else token] = np.nan

        return self._edited(f"poisoned-{token}", edit)

    def with_images(self) -> tuple[TinyModel, ...]:
        """The models that accept images."""
        if "seeing" not in self._models:
            path = self._folder / "seeing"
            spec = write_tiny_model(path, "llama")
            write_projector(path, spec.hidden_size)
            self._models["seeing"] = TinyModel(path, spec)
        return (self._models["seeing"],)

    def sharded(self) -> TinyModel:
        """A model whose weights are in two files with an index."""
        if "sharded" not in self._models:
            model = self._untied("sharded")
            tensors = load_file(model.path / "model.safetensors")
            names = sorted(tensors)
            files = {
                name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)
            }
            for file in sorted(set(files.values())):
                save_file(
                    {n: tensors[n] for n in names if files[n] == file},
                    model.path / file,
                    metadata={"format": "pt"},
                )
            (model.path / "model.safetensors").unlink()
            index = {
                "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                "weight_map": files,
            }
            (model.path / "model.safetensors.index.json").write_text(
                json.dumps(index), encoding="utf-8"
            )
            self._models["sharded"] = model
        return self._models["sharded"]

    def _untied(self, name: str) -> TinyModel:
        path = self._folder / name
        return TinyModel(path, write_tiny_model(path, "llama", tie_word_embeddings=False))

    def _edited(self, name: str, edit: Any) -> TinyModel:  # noqa: ANN401 - Callable over a dict of arrays
        if name not in self._models:
            model = self._untied(name)
            file = model.path / "model.safetensors"
            tensors = load_file(file)
            edit(tensors)
            save_file(tensors, file, metadata={"format": "pt"})
            self._models[name] = TinyModel(model.path, model.spec)
        return self._models[name]
