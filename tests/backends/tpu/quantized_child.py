"""Runs quantized checkpoints on one device and on two devices, and prints their differences as
JSON.

The process must have two devices.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np

from tests.backends.tpu.stepping import Runner, Sequence
from tgi.architectures import ModelSpec, load_spec
from tgi_tpu.attention.plan import AttentionPlan
from tgi_tpu.mesh import make_mesh
from tgi_tpu.model import decoder
from tgi_tpu.weights.matrix_formats import checkpoint_formats


def run(path: Path, num_shard: int) -> tuple[np.ndarray, float]:
    """Logits of one sequence, and the part of the largest array on the first device."""
    spec, mesh = load_spec(path), make_mesh(num_shard, "cpu")
    assert isinstance(spec, ModelSpec)
    formats = checkpoint_formats(spec, path)
    parameters = decoder.load(spec, path, mesh, "float32", quantization=formats)
    sequence = Sequence(list(range(3, 18)), [4, 2, 9, 1])
    Runner(spec, parameters, AttentionPlan(mesh)).step([(sequence, 15)])
    layers = jax.tree.leaves(parameters.groups)
    quantized = [array for array in layers if array.dtype.itemsize == 1]
    shares = {array.addressable_shards[0].data.size / array.size for array in quantized}
    assert len(shares) == 1
    return np.stack(sequence.logits), shares.pop()


if __name__ == "__main__":
    outcome = {}
    for name in sys.argv[1:]:
        alone, _ = run(Path(name), 1)
        divided, share = run(Path(name), 2)
        outcome[name] = {
            "share": share,
            "difference": float(np.abs(alone - divided).max()),
            "largest": float(np.abs(alone).max()),
        }
    json.dump(outcome, sys.stdout)
