"""The CPU backend's `Backend` class, and the life cycle of its worker from `load` to `close`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
import torch

from tests.backends.checkpoints import save_checkpoint
from tgi.architectures import GenericSpec, load_spec
from tgi.backend import (
    FEATURES,
    SAMPLING_FIELDS,
    EngineConfig,
    GrammarMasks,
    Health,
    LoadAdapter,
    ModelError,
    RequestedLimits,
    StepError,
    Worker,
    WrongStateError,
    empty_int32,
)
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.conformance.scripted_core import ScriptedCore
from tgi_cpu import machine, tgi_backend
from tgi_torch.memory import weights_bytes
from tgi_torch.ops import REFERENCE
from tgi_torch.runner.device import TorchDevice, decoder_loader
from tgi_torch.runner.worker import torch_worker

METHODS = ("load", "negotiate", "warmup", "submit", "collect", "control", "health", "close")
KIB = 1024


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen3")
    save_checkpoint("qwen3", path)
    return path


@pytest.fixture(scope="module")
def spec(checkpoint):
    return load_spec(checkpoint)


@pytest.fixture
def config(checkpoint, spec):
    return EngineConfig("cpu", str(checkpoint), spec)


def create(config, **device):
    if not device:
        return tgi_backend().create_worker(config, RecordingReporter())
    cpu = torch.device("cpu")
    loader = decoder_loader(device.pop("ops", REFERENCE), cpu)
    defaults = {
        "free_bytes": lambda: 2**30,
        "facts": {},
        "block_size": 16,
        "max_step_tokens": 64,
        "load_model": loader,
    }
    return torch_worker(config, RecordingReporter(), TorchDevice(device=cpu, **(defaults | device)))


def test_the_backend_class_imports_no_framework(checkpoint, spec):
    code = (
        "import sys, msgspec, tgi_cpu; from pathlib import Path; from tgi.architectures import"
        " load_spec;from tgi.backend import EngineConfig; b = tgi_cpu.tgi_backend(); assert"
        " b.probe().usable; p = sys.argv[1];s = load_spec(Path(p)); assert b.supports(s,"
        " EngineConfig('cpu', p, s)).status == 'native';print(sorted({m.split('.')[0] for m in"
        " sys.modules} & {'torch', 'transformers', 'jax'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_probe_reports_missing_packages():
    code = (
        "import sys; from importlib.machinery import PathFinder\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return None if name == 'torch' else PathFinder.find_spec(name, path, target)\n"
        "import tgi_cpu\n"
        "sys.meta_path[:] = [Hide()]\n"
        "probe = tgi_cpu.tgi_backend().probe(); assert not probe.usable; print(probe.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch is not installed" in done.stdout
    assert "pip install" in done.stdout


def test_info_and_probe():
    backend = tgi_backend()
    assert (backend.info.name, backend.info.priority, backend.info.selectable) == (
        "cpu",
        -100,
        True,
    )
    (device,) = backend.probe().devices
    assert device.memory_bytes == machine.total_memory() > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quantize": "awq"}, "--quantize awq"),
        ({"num_shard": 2}, "--num-shard 2"),
        ({"kv_cache_dtype": "fp8_e4m3"}, "`--kv-cache-dtype fp8_e4m3` is not a value of this"),
        ({"dtype": "int8"}, "--dtype int8"),
    ],
)
def test_supports_rejects_options_with_a_reason(config, change, reason):
    support = tgi_backend().supports(config.spec, msgspec.structs.replace(config, **change))
    assert support.status == "no"
    assert any(reason in text for text in support.reasons)


def test_supports_rejects_models_that_nothing_can_run(config, spec):
    unknown = {"model_type": "new", "is_encoder_decoder": True}
    generic = GenericSpec(
        model_type="new",
        vocab_size=9,
        hidden_size=8,
        num_layers=1,
        num_kv_heads=1,
        head_dim=8,
        max_positions=9,
        config=unknown,
    )
    support = tgi_backend().supports(generic, config)
    assert support.status == "no"
    assert "`new`" in support.reasons[0]


@pytest.mark.parametrize(
    ("stored", "requested", "computed", "status"),
    [
        (torch.float32, None, "float32", "native"),
        (torch.float16, None, "bfloat16", "native"),
        (torch.bfloat16, None, "bfloat16", "native"),
        (torch.bfloat16, "float32", "float32", "native"),
        (torch.float32, "float16", "float16", "slow"),
    ],
)
def test_dtype(tmp_path, stored, requested, computed, status):
    save_checkpoint("gpt2", tmp_path, dtype=stored)
    config = EngineConfig("cpu", str(tmp_path), load_spec(tmp_path), dtype=requested)
    support = tgi_backend().supports(config.spec, config)
    assert (support.status, support.memory[0].detail) == (status, computed)
    worker = create(config)
    worker.load()
    agreement = worker.negotiate(RequestedLimits())
    assert agreement.facts["dtype"] == computed
    assert (
        agreement.memory[0].num_bytes
        == support.memory[0].num_bytes
        == weights_bytes(config.spec, computed)
    )
    worker.warmup()
    assert worker.health(True) == Health(True)
    worker.close()


def test_states(config):
    worker = create(config)
    assert isinstance(worker, Worker)
    assert all(callable(getattr(worker, name)) for name in METHODS)
    core = None

    def calls():
        step = core.build({}) if core else None
        return {
            "load": worker.load,
            "negotiate": lambda: worker.negotiate(RequestedLimits()),
            "warmup": worker.warmup,
            "submit": lambda: worker.submit(step),
            "collect": worker.collect,
        }

    def only(*allowed):
        for name, call in calls().items():
            if name not in allowed:
                with pytest.raises(WrongStateError, match=name):
                    call()
        return [calls()[name]() for name in allowed]

    only("load")
    assert not worker.health(True).ok
    (agreement,) = only("negotiate")
    core = ScriptedCore(worker, agreement)
    only("warmup")
    assert worker.health(False) == worker.health(True) == Health(True)
    assert only("submit", "collect")[1].token_ptr.tolist() == [0]
    assert worker.collect() is None
    worker.close()
    worker.close()
    only()
    assert not worker.health(False).ok
    create(config).close()


def test_load_reports_progress_and_names_a_damaged_file(config, tmp_path):
    reporter = RecordingReporter()
    worker = tgi_backend().create_worker(config, reporter)
    worker.load()
    assert {phase for phase, _, _ in reporter.progress_calls} == {"load"}
    assert reporter.progress_calls[-1][1] == reporter.progress_calls[-1][2] > 0
    save_checkpoint("qwen3", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    damaged = create(msgspec.structs.replace(config, model_path=str(tmp_path)))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        damaged.load()


def test_negotiated_limits(config):
    worker = create(config)
    worker.load()
    agreement = worker.negotiate(
        RequestedLimits(max_concurrent_requests=3, features=tuple(FEATURES))
    )
    assert set(agreement.sampling) == SAMPLING_FIELDS
    assert set(agreement.features) == {
        "device_token",
        "logprobs",
        "mask",
        "prefix_cache",
        "prompt_logprobs",
    }
    assert agreement.limits.max_total_tokens == 128  # the model's own
    assert agreement.limits.depth == agreement.limits.tokens_per_step == 1
    # All three sequences have the maximum length, which is far below half of the memory.
    assert agreement.kv_cache.max_batch_total_tokens == 3 * 128
    assert {"dtype", "attention", "threads", "torch", "isa"} <= set(agreement.facts)
    msgspec.msgpack.encode(agreement)


def ready(config, **device):
    worker = create(config, **device)
    worker.load()
    core = ScriptedCore(worker, worker.negotiate(RequestedLimits(max_concurrent_requests=2)))
    worker.warmup()
    return worker, core


def test_a_step_out_of_memory_may_be_retried(config):
    failures = []

    def linear(x, weight, bias):
        if failures:
            raise failures.pop()
        return REFERENCE.linear(x, weight, bias)

    _, core = ready(config, ops=replace(REFERENCE, linear=linear))
    for failure in (
        MemoryError(),
        torch.OutOfMemoryError("full"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        step = core.build({core.add([1, 2, 3]): 3})
        failures.append(failure)
        core.worker.submit(step)
        with pytest.raises(
            StepError, match="Out of memory in a step of 1 rows and 3 tokens"
        ) as caught:
            core.worker.collect()
        assert caught.value.retryable
        core.forget(step)
    sequence = core.add([1, 2, 3])
    assert len(core.step({sequence: 0}).tokens) == 1
    failures.append(RuntimeError("another kind of error"))
    with pytest.raises(RuntimeError, match="another kind"):
        core.step({sequence: 0})


def test_deep_health_runs_the_model_without_side_effects(config):
    faults = []

    def norm(x, weight, eps):
        if faults:
            return faults[0](x)
        return REFERENCE.rms_norm(x, weight, eps)

    def fail(x):
        raise RuntimeError("device lost")

    worker, core = ready(config, ops=replace(REFERENCE, rms_norm=norm))
    sequence = core.add([5, 6, 7])
    undisturbed = [core.step({sequence: 0}).tokens[0] for _ in range(20)]
    core.drop(sequence)
    last = core.agreement.kv_cache.groups[0].num_blocks - 1
    sequence = core.add([5, 6, 7], blocks=[last])
    tokens = []
    for _ in range(20):
        tokens.append(core.step({sequence: 0}).tokens[0])
        assert worker.health(True).ok
    assert tokens == undisturbed
    faults.append(lambda x: x * torch.nan)
    assert "NaN" in worker.health(True).message
    faults[0] = fail
    assert "device lost" in worker.health(True).message
    assert worker.health(False).ok


def test_steps_beyond_negotiated_limits_are_rejected(config):
    worker, core = ready(config)
    with pytest.raises(StepError, match="Late masks"):
        worker.submit(GrammarMasks(1, empty_int32(), empty_int32()))
    step = core.build({})
    worker.submit(step)
    with pytest.raises(StepError, match="because 1 steps are in flight"):
        worker.submit(core.build({}))
    assert worker.collect().step_id == step.step_id
    assert not worker.control(LoadAdapter(1, "nowhere")).ok


def test_instruction_sets(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx avx2 avx512f amx_bf16x\n")
    assert machine.instruction_sets(file) == ("avx2", "avx512f")
    file.write_text("processor : 0\nFeatures\t: fp asimd bf16 i8mm\n")
    assert machine.instruction_sets(file) == ("asimd", "i8mm", "bf16")
    assert machine.instruction_sets(tmp_path / "absent") == ()


def test_a_container_limits_memory_and_threads(tmp_path, monkeypatch):
    assert machine.free_memory(tmp_path) > 2**20
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    (tmp_path / "memory.current").write_text(f"{500 * KIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {100 * KIB}\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert machine.free_memory(tmp_path) == 2**20 - 400 * KIB
    assert machine.total_memory(tmp_path) == 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory(tmp_path) > 2**20
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert machine.num_threads(tmp_path) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.num_threads(tmp_path) == 3
