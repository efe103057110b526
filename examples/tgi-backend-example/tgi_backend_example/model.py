"""A decoder in numpy. It stores the keys and values of all sequences."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from tgi.architectures import MLP, Attention, ModelSpec, Norm
from tgi.architectures.rope import inverse_frequencies
from tgi.architectures.weight_map import placements, split
from tgi.checkpoints.safetensors_file import close_files, float32_array, map_checkpoint
from tgi.worker.adapter import ForwardBatch, Progress

__all__ = ["ExampleModel"]

Array = npt.NDArray[np.float32]


@final
class ExampleModel:
    """A `tgi.worker.adapter.ForwardModel`.

    Weights are stored under their parameter names. Matrices have the shape [out, in].
    """

    def __init__(self, spec: ModelSpec, model_path: Path) -> None:
        self._spec = spec
        self._path = model_path
        self._weights: dict[str, Array] = {}
        self._keys: list[Array] = []  # per layer [num_slots, kv_heads, head_dim]
        self._values: list[Array] = []

    @property
    def vocab_size(self) -> int:
        """Number of logits per token."""
        return self._spec.vocab_size

    def load(self, progress: Progress) -> None:
        """Read the weights in float32. Raises `ModelError` with the name of a file or tensor that
        cannot be used.
        """
        tensors = map_checkpoint(self._path)
        try:
            placed = placements(self._spec, tensors)
            for done, placement in enumerate(placed, 1):
                array = float32_array(tensors[placement.name])
                self._weights |= split(array, placement, self._spec)
                progress(done, len(placed))
        finally:
            close_files(tensors)

    def allocate(self, num_slots: int, progress: Progress) -> None:
        """Allocate memory for the keys and values of `num_slots` tokens."""
        for layer in self._spec.decoder.layers:
            mixer = layer.blocks[0].branches[0].mixer
            assert isinstance(mixer, Attention)
            self._keys.append(np.zeros((num_slots, mixer.num_kv_heads, mixer.head_dim), np.float32))
            self._values.append(
                np.zeros((num_slots, mixer.num_kv_heads, mixer.head_dim), np.float32)
            )
        progress(1, 1)

    def forward(self, batch: ForwardBatch) -> Array:
        """Store keys and values, and return the logits [len(batch.logits_indices), vocab_size]."""
        for cache in (*self._keys, *self._values):
            cache[batch.copy_target] = cache[batch.copy_source]
        x = self._weights["embedding.weight"][batch.token_ids]  # [t, hidden]
        for index, layer in enumerate(self._spec.decoder.layers):
            for block in layer.blocks:
                branch = block.branches[0]
                is_attention = isinstance(branch.mixer, Attention)
                name = f"decoder.layers.{index}.{'attention' if is_attention else 'mlp'}"
                y = self._norm(x, branch.norm, f"{name}.norm")
                if isinstance(branch.mixer, Attention):
                    x = x + self._attention(y, branch.mixer, name, index, batch)
                elif isinstance(branch.mixer, MLP):
                    gate, up = self._linear(y, f"{name}.gate"), self._linear(y, f"{name}.up")
                    x = x + self._linear(gate / (1 + np.exp(-gate)) * up, f"{name}.down")
        x = self._norm(x[batch.logits_indices], self._spec.decoder.final_norm, "decoder.final_norm")
        head = "embedding.weight" if self._spec.head.tied else "head.weight"
        logits: Array = x @ self._weights[head].T
        return logits

    def close(self) -> None:
        """Release the weights and the cache."""
        self._weights, self._keys, self._values = {}, [], []

    def _attention(
        self, y: Array, rule: Attention, name: str, layer: int, batch: ForwardBatch
    ) -> Array:
        shape = (len(y), -1, rule.head_dim)
        # Each of q, k and v is [t, heads, head_dim].
        q, k, v = (self._linear(y, f"{name}.{part}").reshape(shape) for part in "qkv")
        q = self._norm(q, rule.q_norm, f"{name}.q_norm")
        k = self._norm(k, rule.k_norm, f"{name}.k_norm")
        q, k = _rotate(q, rule, batch), _rotate(k, rule, batch)
        self._keys[layer][batch.slot_mapping] = k
        self._values[layer][batch.slot_mapping] = v
        out = np.empty_like(q)
        for row in range(batch.num_rows):
            first, last = batch.cu_seqlens_q[row : row + 2]
            slots = batch.context_slots(row)
            groups = rule.num_heads // rule.num_kv_heads
            keys, values = (
                cache[layer][slots].repeat(groups, axis=1) for cache in (self._keys, self._values)
            )
            scores = np.einsum("qhd,khd->hqk", q[first:last], keys) * np.float32(rule.scale)
            distance = batch.positions[first:last, None] - np.arange(len(slots))
            hidden = (distance < 0) | (distance >= (rule.window or len(slots) + 1))
            scores = np.where(hidden, np.float32(-np.inf), scores)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[first:last] = np.einsum(
                "hqk,khd->qhd", weights / weights.sum(axis=-1, keepdims=True), values
            )
        return self._linear(out.reshape(len(y), -1), f"{name}.o")

    def _linear(self, x: Array, name: str) -> Array:
        y: Array = x @ self._weights[f"{name}.weight"].T
        return y + self._weights[f"{name}.bias"] if f"{name}.bias" in self._weights else y

    def _norm(self, x: Array, rule: Norm | None, name: str) -> Array:
        """Apply the RMS norm over the last dimension. Return `x` unchanged if `rule` is None."""
        if rule is None:
            return x
        y: Array = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(rule.eps))
        return y * self._weights[f"{name}.weight"]


def _rotate(x: Array, rule: Attention, batch: ForwardBatch) -> Array:
    """Apply the rotary embedding to `x` [t, heads, head_dim], for each token at its position."""
    assert rule.rope is not None
    frequencies, factor = inverse_frequencies(rule.rope, int(batch.seq_lens.max()))
    angles = batch.positions[:, None, None] * frequencies
    cos, sin = (np.float32(factor) * f(angles).astype(np.float32) for f in (np.cos, np.sin))
    rotated, rest = x[..., : rule.rope.rotary_dim], x[..., rule.rope.rotary_dim :]
    first, second = np.split(rotated, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
