"""The dtype of the computation depends on the instructions of the processor."""

from __future__ import annotations

import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tgi.architectures import load_spec
from tgi.backend import EngineConfig, RequestedLimits
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi_cpu import machine
from tgi_cpu.backend import CpuBackend, with_compute_dtype
from tgi_cpu.machine import has_bfloat16_products


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One checkpoint in each dtype."""
    found = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        path = tmp_path_factory.mktemp("model")
        save_checkpoint("llama", path, dtype=dtype)
        found[str(dtype).removeprefix("torch.")] = path
    return found


def config_of(folder, **options):
    return EngineConfig("cpu", str(folder), load_spec(folder), **options)


def set_machine(monkeypatch, *, has_products, memory=1 << 40):
    monkeypatch.setattr(machine, "has_bfloat16_products", lambda: has_products)
    monkeypatch.setattr(machine, "total_memory", lambda: memory)


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        ("bfloat16", {}, "float32"),
        ("float16", {}, "float32"),
        ("float32", {}, None),  # float32 by default
        ("bfloat16", {"quantize": "int8"}, "float32"),
        ("float32", {"quantize": "int4"}, "float32"),
        ("bfloat16", {"dtype": "bfloat16"}, "bfloat16"),
        ("float32", {"dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_without_bfloat16_products_float32_is_the_default(
    stored, options, expected, folders, monkeypatch
):
    config = config_of(folders[stored], **options)
    set_machine(monkeypatch, has_products=False)
    assert with_compute_dtype(config.spec, config).dtype == expected
    set_machine(monkeypatch, has_products=True)
    assert with_compute_dtype(config.spec, config) == config


def test_weights_that_would_fill_the_memory_stay_in_bfloat16(folders, monkeypatch):
    config = config_of(folders["bfloat16"])
    set_machine(monkeypatch, has_products=False)
    (weights, *_) = CpuBackend().supports(config.spec, config).memory
    set_machine(monkeypatch, has_products=False, memory=2 * weights.num_bytes)
    assert with_compute_dtype(config.spec, config).dtype == "float32"
    set_machine(monkeypatch, has_products=False, memory=2 * weights.num_bytes - 2)
    assert with_compute_dtype(config.spec, config).dtype is None


@pytest.mark.parametrize(("has_products", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_estimate_and_worker_use_the_same_dtype(has_products, dtype, folders, monkeypatch):
    config = config_of(folders["bfloat16"])
    set_machine(monkeypatch, has_products=has_products)
    assert {item.detail for item in CpuBackend().supports(config.spec, config).memory} == {dtype}
    reporter = RecordingReporter()
    worker = CpuBackend().create_worker(config, reporter)
    worker.load()
    try:
        facts = worker.negotiate(RequestedLimits()).facts
    finally:
        worker.close()
    assert facts["dtype"] == dtype
    converted = [line for line in reporter.lines if "converted to float32" in line]
    assert bool(converted) == (not has_products)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags : fpu avx2 avx512f avx512_bf16", True),
        ("flags : fpu avx2 avx512f", False),
        ("flags : fpu avx2", False),
        ("Features : asimd bf16 i8mm", True),
        ("Features : asimd i8mm", False),
        ("", True),
    ],
)
def test_the_products_are_read_from_the_system(line, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
    assert has_bfloat16_products(tmp_path / "cpuinfo") == expected
