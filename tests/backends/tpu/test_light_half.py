"""The `Backend` class, which does not import JAX: chips, rejected options, memory."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tgi.architectures import GenericSpec
from tgi.backend import BackendError, EngineConfig, Explainer, RequestedLimits
from tgi.testing.tiny_models import write_tiny_model
from tgi_tpu.backend import TpuBackend
from tgi_tpu.chips import find_chips, has_device_nodes
from tgi_tpu.memory import (
    MemoryFacts,
    compute_dtype,
    kv_bytes_per_token,
    plan_limits,
    weights_bytes,
    workspace_bytes,
)

GIB = 1 << 30


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    return EngineConfig("tpu", str(path), write_tiny_model(path), options={"platform": "cpu"})


def pci(folder, *ids):
    for number, (vendor, device) in enumerate(ids):
        place = folder / f"0000:00:{number:02x}.0"
        place.mkdir()
        (place / "vendor").write_text(f"{vendor:#06x}\n")
        (place / "device").write_text(f"{device:#06x}\n")
    return folder


def test_chips_are_known_by_their_ids(tmp_path):
    chips = find_chips(
        pci(tmp_path, (0x8086, 0x0063), (0x1AE0, 0x0063), (0x1AE0, 0x0042), (0x1AE0, 0x006F))
    )
    assert [(chip.generation, chip.memory_bytes) for chip in chips] == [
        ("v5e", 16 * GIB),
        ("v6e", 32 * GIB),
    ]


def test_an_unreadable_bus_has_no_chips(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "vendor").write_text("what?")
    assert find_chips(tmp_path) == find_chips(tmp_path / "none") == ()


@pytest.mark.parametrize("node", ["accel0", "vfio/3"])
def test_device_nodes(node, tmp_path):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # the node of the driver, not of a chip
    assert not has_device_nodes(tmp_path)
    (tmp_path / node).touch()
    assert has_device_nodes(tmp_path)


def test_without_a_chip_the_cpu_platform_must_be_requested(config):
    backend = TpuBackend()
    assert not backend.info.selectable
    assert backend.probe().usable
    assert "no TPU" in backend.probe().devices[0].label
    (reason,) = backend.supports(config.spec, msgspec.structs.replace(config, options={})).reasons
    assert "no TPU chip was found" in reason and "--tpu-platform cpu" in reason


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"num_shard": 16}, "at most 8"),
        ({"num_shard": 8}, "4 query heads cannot be divided"),
        ({"dtype": "float16"}, "bfloat16, float32"),
        ({"quantize": "gptq"}, "bitsandbytes, eetq"),
        ({"quantize": "int4"}, "rounds the weights to 4-bit integers"),
        ({"kv_cache_dtype": "fp8_e4m3fn"}, "--kv-cache-dtype"),
        ({"options": {"platform": "cpu", "token-buckets": "x"}}, "positive numbers"),
    ],
)
def test_rejections_have_reasons(config, changes, part):
    support = TpuBackend().supports(config.spec, msgspec.structs.replace(config, **changes))
    assert support.status == "no"
    assert any(part in reason for reason in support.reasons), support.reasons


def test_an_unknown_family_is_rejected(config):
    spec = GenericSpec("no_such", 8, 8, 1, 1, 8, 8, {})
    assert TpuBackend().supports(spec, config).reasons == (
        "the architecture `no_such` is not known",
    )


def test_the_estimate_counts_bytes(config):
    spec = config.spec
    support = TpuBackend().supports(spec, config)
    assert [item.num_bytes for item in support.memory] == [
        weights_bytes(spec, "float32"),
        2 * 2 * 8 * 2 * 4,
    ]
    matrices = 384 * 32 + 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 64)
    vectors = 5 * 32
    assert spec.vocab_size == 384
    assert weights_bytes(spec, "bfloat16") == 2 * (matrices + vectors)
    assert weights_bytes(spec, "bfloat16", "eetq") == matrices + 2 * vectors


def test_the_dtype_follows_the_checkpoint():
    assert [compute_dtype(None, stored) for stored in ("F32", "F16", "BF16", None)] == [
        "float32",
        "bfloat16",
        "bfloat16",
        "float32",
    ]
    with pytest.raises(BackendError, match="float16"):
        compute_dtype("float16", "F16")


def facts_of(config, free_bytes=GIB):
    block_bytes = 32 * kv_bytes_per_token(config.spec, "float32")
    return MemoryFacts(free_bytes, 1000, block_bytes, 32, "float32", 256)


def test_the_plan_keeps_what_was_requested(config):
    requested = RequestedLimits(
        max_total_tokens=100,
        max_batch_prefill_tokens=48,
        max_batch_total_tokens=1000,
        max_batch_size=4,
    )
    plan = plan_limits(config.spec, requested, facts_of(config))
    limits = plan.limits
    assert (
        limits.max_total_tokens,
        limits.max_sequences,
        limits.max_step_tokens,
        limits.depth,
    ) == (100, 4, 48, 2)
    assert plan.kv_cache.groups[0].num_blocks == 32
    assert sum(item.num_bytes for item in plan.memory[1:]) == GIB


def test_the_plan_uses_the_limits_of_model_and_memory(config):
    plan = plan_limits(config.spec, RequestedLimits(max_concurrent_requests=8), facts_of(config))
    assert plan.limits.max_total_tokens == 512
    assert plan.kv_cache.max_batch_total_tokens == 8 * 512
    workspace = workspace_bytes(config.spec, "float32", 256, 8)
    small = plan_limits(
        config.spec,
        RequestedLimits(max_concurrent_requests=8),
        facts_of(config, workspace + 10 * facts_of(config).block_bytes),
    )
    assert small.kv_cache.groups[0].num_blocks == 9
    assert small.limits.max_total_tokens == 288


@pytest.mark.parametrize(
    ("requested", "free_blocks", "part"),
    [
        (RequestedLimits(), 0, "too little for one cache block"),
        (
            RequestedLimits(max_total_tokens=512),
            4,
            "--max-total-tokens 512` does not fit the cache of 128 tokens",
        ),
        (
            RequestedLimits(max_batch_total_tokens=512),
            4,
            "needs 16 cache blocks, but memory is left for 4",
        ),
        (RequestedLimits(max_input_tokens=512), 1000, "must be below the 512 tokens"),
    ],
)
def test_impossible_requests_are_errors(config, requested, free_blocks, part):
    facts = facts_of(config)
    workspace = workspace_bytes(config.spec, "float32", 256, 128)
    with pytest.raises(BackendError) as raised:
        plan_limits(
            config.spec,
            requested,
            replace(facts, free_bytes=workspace + free_blocks * facts.block_bytes),
        )
    assert part in str(raised.value)


def test_learned_positions_limit_the_context(tmp_path):
    spec = write_tiny_model(tmp_path, "gpt2")
    with pytest.raises(BackendError, match="512 positions"):
        plan_limits(
            spec, RequestedLimits(max_total_tokens=600), MemoryFacts(GIB, 0, 1, 32, "float32", 256)
        )


@pytest.mark.parametrize(
    ("platform", "chosen"),
    [("cpu", "plain XLA operations"), ("auto", "the ragged paged attention of JAX")],
)
def test_explain_reports_the_attention_kernel_and_reasons(config, platform, chosen):
    backend = TpuBackend()
    assert isinstance(backend, Explainer)
    attention, weights = backend.explain(
        config.spec, msgspec.structs.replace(config, options={"platform": platform})
    )
    assert (attention.operation, attention.chosen, weights.chosen) == (
        "attention",
        chosen,
        "float32",
    )
    assert len(attention.others) == 2 and all(reason for _, reason in attention.others)
    quantized = backend.explain(config.spec, msgspec.structs.replace(config, quantize="eetq"))[1]
    assert quantized.chosen == "int8, products in float32"
    assert backend.explain(GenericSpec("no_such", 8, 8, 1, 1, 8, 8, {}), config) == ()
