"""Tensor parallelism: four devices compute the same as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jax.sharding import PartitionSpec

from tests.backends.tpu.specs import spec_of
from tgi.backend import BackendError
from tgi_tpu.coverage import unsharded
from tgi_tpu.mesh import make_mesh, partition

ROOT = Path(__file__).parents[3]
VARIANTS = ("llama-odd", "olmo2-biases", "gpt_oss+int8")
"""Two key heads, each stored twice, and an MLP of 42; norms over all heads; quantized experts, and
sinks.
"""


@pytest.fixture(scope="module")
def outcome() -> dict[str, dict[str, float]]:
    four = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environment = (
        os.environ | four | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    )
    command = [sys.executable, "-m", "tests.backends.tpu.tensor_parallel_child", *VARIANTS]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("variant", VARIANTS)
def test_four_devices_compute_the_same_as_one(
    variant: str, outcome: dict[str, dict[str, float]]
) -> None:
    facts = outcome[variant]
    assert facts["difference"] < 1e-4 * max(1, facts["largest"])


def test_each_device_has_its_share(outcome: dict[str, dict[str, float]]) -> None:
    assert outcome["llama-odd"]["all_reduces"]
    assert outcome["llama-odd"]["cache"] == 2, "one key and one value head"
    # The embedding of 101 tokens cannot be divided.
    assert outcome["llama-odd"]["held"] < 0.55


def test_heads_that_cannot_be_divided_are_rejected() -> None:
    llama = spec_of("llama")
    assert unsharded(llama, 2) is None and unsharded(llama, 4) is None
    assert unsharded(llama, 3) == "4 query heads cannot be divided among 3 devices"
    with pytest.raises(BackendError, match="64 shards were requested, but JAX finds"):
        make_mesh(64, "cpu")


def test_partition_of_parameters() -> None:
    assert partition("decoder.layers.0.mlp.down.weight", (32, 40), 4, leading=1) == PartitionSpec(
        None, None, "tp"
    )
    assert partition("decoder.layers.0.moe.experts.up.weight", (5, 40, 32), 4) == PartitionSpec(
        None, "tp"
    )
    assert partition("embedding.weight", (101, 32), 4) == PartitionSpec(), (
        "101 rows are not divided by 4"
    )
    assert partition("decoder.layers.0.attention.o.bias", (32,), 4) == PartitionSpec()
