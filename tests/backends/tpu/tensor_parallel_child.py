"""Runs models on one device and on four devices, and prints their differences as JSON.

The process must have four devices.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np

from tests.backends.tpu.specs import spec_of
from tests.backends.tpu.stepping import Runner, Sequence, draw_weights, parameters_of
from tgi_tpu.attention.plan import AttentionPlan
from tgi_tpu.mesh import make_mesh
from tgi_tpu.weights.leaves import Quantization


def run(
    variant: str, num_shard: int, quantization: Quantization | None
) -> tuple[np.ndarray, dict[str, object]]:
    """Logits of two sequences in chunks, and facts about the memory and exchange of the devices."""
    spec, mesh = spec_of(variant), make_mesh(num_shard, "cpu")
    parameters = parameters_of(spec, draw_weights(spec), mesh, quantization=quantization)
    runner = Runner(spec, parameters, AttentionPlan(mesh), num_blocks=12)
    first, second = (
        Sequence(list(range(3, 20)), [5, 1, 8, 2, 7]),
        Sequence(list(range(30, 40)), [3, 9, 11]),
    )
    for work in ([(first, 9), (second, 4)], [(second, 6), (first, 7)], [(first, 1)]):
        runner.step(work)
    arrays = jax.tree.leaves(parameters)
    held = sum(array.addressable_shards[0].data.nbytes for array in arrays) / sum(
        array.nbytes for array in arrays
    )
    facts = {"held": held, "cache": runner.cache[0].addressable_shards[0].data.shape[2]}
    if num_shard > 1 and variant == "llama-odd":
        program = (
            runner.forward.lower(parameters, runner.cache, runner.arrays([(first, 0)]))
            .compile()
            .as_text()
        )
        facts["all_reduces"] = "all-reduce" in program
    return np.stack(first.logits + second.logits), facts


if __name__ == "__main__":
    outcome = {}
    for name in sys.argv[1:]:
        variant, _, quantization = name.partition("+")
        alone, _ = run(variant, 1, quantization or None)
        divided, facts = run(variant, 4, quantization or None)
        outcome[name] = facts | {
            "difference": float(np.abs(alone - divided).max()),
            "largest": float(np.abs(alone).max()),
        }
    json.dump(outcome, sys.stdout)
