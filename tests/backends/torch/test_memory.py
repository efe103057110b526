"""The memory plan of torch workers."""

from __future__ import annotations

import pytest

from tests.backends.checkpoints import save_checkpoint
from tests.backends.mixer_checkpoints import save_mixer_variant
from tgi.architectures import load_spec
from tgi.backend import BackendError, RequestedLimits
from tgi.testing.tiny_models import write_tiny_model
from tgi.worker.memory.limits import format_bytes
from tgi_torch.memory import (
    MemoryFacts,
    kv_bytes_per_token,
    plan_limits,
    state_bytes,
    workspace_bytes,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    save_checkpoint("qwen3", path)
    return load_spec(path)


def plan(spec, free, **requested):
    facts = MemoryFacts(
        free_bytes=free, weights_bytes=0, dtype="float32", block_size=16, max_step_tokens=32
    )
    return plan_limits(spec, RequestedLimits(**({"max_concurrent_requests": 2} | requested)), facts)


def test_the_cache_takes_half_of_the_free_memory(spec):
    block = kv_bytes_per_token(spec, "float32") * 16
    assert block == 16 * 3 * 2 * (12 + 12) * 4
    workspace = workspace_bytes(spec, "float32", 32, 2)
    # 16 blocks are two sequences of 128 tokens.
    for blocks, expected in ((10, 5), (11, 5), (15, 7), (16, 8), (1000, 16)):
        planned = plan(spec, workspace + blocks * block)
        assert planned.kv_cache.groups[0].num_blocks == expected
        assert planned.limits.max_total_tokens == min(128, expected * 16)
        items = {item.label: item.num_bytes for item in planned.memory}
        assert items.pop("weights") == 0
        assert items == {
            "workspace": workspace,
            "KV cache": expected * block,
            "left free": (blocks - expected) * block,
        }
    with pytest.raises(BackendError, match="too little for one cache block"):
        plan(spec, workspace + block)


def test_user_limits_are_kept_or_rejected(spec):
    block = kv_bytes_per_token(spec, "float32") * 16
    workspace = workspace_bytes(spec, "float32", 32, 2)
    free = workspace + 10 * block
    # All of the memory, rounded up to blocks.
    assert plan(spec, free, max_batch_total_tokens=150).kv_cache.groups[0].num_blocks == 10
    with pytest.raises(
        BackendError, match=r"`--max-batch-total-tokens 161` needs 11 cache blocks.* 10 "
    ):
        plan(spec, free, max_batch_total_tokens=161)
    # More than half of the memory, because one sequence must fit.
    assert plan(spec, free, max_total_tokens=160).kv_cache.groups[0].num_blocks == 10
    assert plan(spec, free, max_total_tokens=50).limits.max_total_tokens == 50
    with pytest.raises(
        BackendError, match="`--max-total-tokens 161` does not fit the cache of 160"
    ):
        plan(spec, free, max_total_tokens=161)
    with pytest.raises(
        BackendError, match=r"`--max-total-tokens 33` does not fit .*--max-batch-total-tokens 32"
    ):
        plan(spec, free, max_total_tokens=33, max_batch_total_tokens=32)
    with pytest.raises(BackendError, match="`--max-input-tokens 80` must be below the 80 tokens"):
        plan(spec, free, max_input_tokens=80)
    assert plan(spec, free, max_input_tokens=79).limits.max_total_tokens == 80
    assert plan(spec, free, max_batch_prefill_tokens=7).limits.max_step_tokens == 7
    assert plan(spec, free, model_max_total_tokens=60).limits.max_total_tokens == 60
    generous = plan(spec, 2**30, max_batch_size=50, max_concurrent_requests=9).limits
    assert (generous.max_sequences, generous.max_step_tokens) == (50, 50)


def test_learned_positions_are_a_hard_limit(tmp_path):
    save_checkpoint("gpt2", tmp_path)
    with pytest.raises(BackendError, match="exceeds the 128 positions of this model"):
        plan(load_spec(tmp_path), 2**30, max_total_tokens=129)


def test_the_index_of_keys_is_a_hard_limit(tmp_path):
    save_mixer_variant("deepseek_v32", tmp_path)
    spec = load_spec(tmp_path)
    assert plan(spec, 2**30, max_total_tokens=128).limits.max_total_tokens == 128
    with pytest.raises(BackendError, match=r"129` exceeds 128\. In longer contexts, the attention"):
        plan(spec, 2**30, max_total_tokens=129)


def test_bytes_are_readable():
    assert (format_bytes(512 * 2**20), format_bytes(3 * 2**29)) == ("512 MiB", "1.50 GiB")


def test_snapshots_use_half_of_the_memory_that_is_left(tmp_path):
    write_tiny_model(tmp_path, "mamba2")
    spec = load_spec(tmp_path)
    state = state_bytes(spec, "float32")
    workspace = workspace_bytes(spec, "float32", 32, 2)
    features = {"features": ("prefix_cache", "state_snapshots")}
    # Two sequences and the health check have states. At least 16 snapshots are planned if they fit.
    for num_left, expected in ((0, 0), (1, 0), (10, 5), (31, 15), (100, 16)):
        free = workspace + (3 + num_left) * state
        planned = plan(spec, free, model_max_total_tokens=64, **features)
        assert planned.kv_cache.groups[0].num_blocks == 2 + expected
        items = {item.label: item.num_bytes for item in planned.memory}
        assert items.get("snapshots", 0) == expected * state
        assert items["left free"] == (num_left - expected) * state
    planned = plan(spec, workspace + 100 * state, model_max_total_tokens=64)
    assert planned.kv_cache.groups[0].num_blocks == 2
