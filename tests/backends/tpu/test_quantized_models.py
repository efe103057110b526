"""Quantized checkpoints whose codes stay on the devices: logits, memory and reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.backends.checkpoints import save_checkpoint
from tests.backends.format_encoders import quantized_checkpoint
from tests.backends.tpu.stepping import Runner, Sequence
from tests.core.checkpoints.gguf_twins import write_twins
from tests.quantized_checkpoints import write_quantized
from tgi.architectures import ModelSpec, load_spec
from tgi.backend import EngineConfig, RequestedLimits
from tgi.testing.conformance.backend_under_test import RecordingReporter
from tgi.testing.reference.model import reference_logits
from tgi.testing.reference.weights import read_weights
from tgi_tpu.attention.plan import AttentionPlan
from tgi_tpu.backend import TpuBackend
from tgi_tpu.mesh import make_mesh
from tgi_tpu.model import decoder
from tgi_tpu.weights.matrix_formats import CheckpointFormats, checkpoint_formats
from tgi_tpu.weights.parameters import parameter_bytes
from tgi_tpu.weights.quantized import GroupedMatrix, QuantizedMatrix

SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
TOKENS = list(range(3, 18))
ENCODED = ("compressed-int8", "compressed-fp8", "fp8-blocks", "fp8-static", "eetq")
CASES = [
    ("llama", "gptq", "int8"),
    ("llama", "gptq-v2-3-bits", "int8"),
    ("llama", "awq", "int8"),
    ("llama", "marlin", "int8"),
    ("llama", "Q4_0", "int8"),
    ("llama", "Q4_1", "int8"),
    ("llama", "Q8_0", "int8"),
    ("llama", "compressed-int8", "int8"),
    ("llama", "compressed-fp8", "float8_e4m3fn"),
    ("llama", "fp8-blocks", "float8_e4m3fn"),
    ("mixtral", "awq", "int8"),
]
ROOT = Path(__file__).parents[3]


def spec_of(path: Path) -> ModelSpec:
    spec = load_spec(path)
    assert isinstance(spec, ModelSpec)
    return spec


def write_case(family: str, name: str, folder: Path) -> tuple[ModelSpec, Path]:
    """Write a quantized checkpoint. Returns the spec and the path of the weights."""
    if name.startswith("Q"):
        path, twin = write_twins(folder, family, kinds=(name,))
        return spec_of(twin), path
    save_checkpoint(family, folder / "source", **SIZES)
    if name in ENCODED:
        quantized_checkpoint(folder / "source", folder / "quantized", name)
        path = folder / "quantized"
    else:
        path = write_quantized(folder / "source", folder, name)[0]
    return spec_of(path), path


def logits(spec: ModelSpec, parameters: object, mesh: jax.sharding.Mesh) -> np.ndarray:
    sequence = Sequence(TOKENS, [4, 2, 9, 1])
    Runner(spec, parameters, AttentionPlan(mesh)).step([(sequence, len(TOKENS))])
    return np.stack(sequence.logits)


def formats_of(spec: ModelSpec, path: Path) -> CheckpointFormats:
    formats = checkpoint_formats(spec, path)
    assert formats is not None
    return formats


def matrices(parameters: object) -> list[GroupedMatrix | QuantizedMatrix]:
    def is_matrix(leaf: object) -> bool:
        return isinstance(leaf, GroupedMatrix | QuantizedMatrix)

    return [leaf for leaf in jax.tree.leaves(parameters, is_leaf=is_matrix) if is_matrix(leaf)]


def size_of(arrays: object) -> int:
    """The bytes of arrays on the devices."""
    return sum(array.nbytes for array in jax.tree.leaves(arrays))


@pytest.mark.parametrize(("family", "name", "dtype"), CASES)
def test_logits_are_those_of_the_dequantized_weights(
    family: str, name: str, dtype: str, tmp_path: Path
) -> None:
    spec, path = write_case(family, name, tmp_path)
    mesh, formats = make_mesh(1, "cpu"), formats_of(spec, path)
    parameters = decoder.load(spec, path, mesh, "float32", quantization=formats)
    kept = matrices(parameters)
    assert {str(matrix.values.dtype) for matrix in kept} == {dtype}
    assert len(kept) == 7 + (name.startswith("Q"))  # GGUF also quantizes the head
    expected = reference_logits(spec, read_weights(spec, path), TOKENS)
    found = logits(spec, parameters, mesh)
    assert np.abs(found - expected).max() < 1e-3 * max(1, np.abs(expected).max())
    assert parameter_bytes(spec, mesh, "float32", formats) == size_of(parameters)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("gptq", 8 + 16 / 32),
        ("awq", 8 + (16 + 8) / 32),
        ("Q4_0", 8 + 16 / 32),
        ("Q8_0", 8 + 16 / 32),
        ("compressed-int8", 8 + 32 / 150),
    ],
)
def test_matrices_need_the_bits_of_their_format(name: str, bits: float, tmp_path: Path) -> None:
    """A code has 8 bits, the scale of a group 16 bits, and its zero 8 bits. Without groups, one
    scale of 32 bits is shared by 128 or 256 inputs.
    """
    spec, path = write_case("llama", name, tmp_path)
    formats = formats_of(spec, path)
    parameters = decoder.load(spec, path, make_mesh(1, "cpu"), "bfloat16", quantization=formats)
    kept = matrices(parameters)
    num_weights = sum(matrix.values.size for matrix in kept)
    assert size_of(kept) * 8 / num_weights == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize("name", ["awq", "compressed-fp8"])
def test_a_worker_compiles_and_runs(name: str, tmp_path: Path) -> None:
    spec, path = write_case("llama", name, tmp_path)
    reporter, options = RecordingReporter(), {"platform": "cpu", "token-buckets": "8"}
    config = EngineConfig("tpu", str(path), spec, options=options)
    worker = TpuBackend().create_worker(config, reporter)
    worker.load()
    requested = RequestedLimits(max_total_tokens=32, max_batch_size=2, max_batch_total_tokens=128)
    agreement = worker.negotiate(requested)
    support = TpuBackend().supports(spec, config)
    assert agreement.memory[0] == support.memory[0]
    assert any("keep the codes of the checkpoint" in line for line in reporter.lines)
    worker.warmup()
    assert worker.health(True).ok
    worker.close()


def test_two_devices_compute_the_same_as_one(tmp_path: Path) -> None:
    cases = []
    for family, name in (("llama", "awq"), ("llama", "fp8-blocks"), ("mixtral", "awq")):
        folder = tmp_path / f"{family}-{name}"
        cases.append(str(write_case(family, name, folder)[1]))
    settings = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-m", "tests.backends.tpu.quantized_child", *cases]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for case, outcome in json.loads(done.stdout).items():
        assert outcome["difference"] < 1e-4 * outcome["largest"], case
        assert outcome["share"] == 0.5, "each device has one half of a matrix"


def test_other_formats_are_dequantized_and_reported(tmp_path: Path) -> None:
    spec, path = write_case("llama", "gptq-order", tmp_path)
    formats = formats_of(spec, path)
    assert not formats.by_parameter
    assert len(formats.dequantized) == 14
    parameters = decoder.load(spec, path, make_mesh(1, "cpu"), "float32", quantization=formats)
    assert not matrices(parameters)
    config = EngineConfig("tpu", str(path), spec, options={"platform": "cpu"})
    weights = TpuBackend().explain(spec, config)[1]
    assert "dequantized from GPTQ" in weights.chosen
    ((name, reason),) = weights.others
    assert name == "int4 in groups of 32"
    assert "instead of" in reason


def test_layers_of_different_formats_are_dequantized(tmp_path: Path) -> None:
    """The layers of a group are one array. Q4_1 has offsets, and Q8_0 has none."""
    kinds = ("Q8_0", *["Q4_1"] * 10)
    path, twin = write_twins(tmp_path, "llama", kinds=kinds)
    spec = spec_of(twin)
    formats = formats_of(spec, path)
    lost = {name for name in formats.dequantized if name.startswith("decoder")}
    assert lost
    assert all(name not in formats.by_parameter for name in lost)
    parts = {name.split(".", 3)[3] for name in lost}
    assert lost == {f"decoder.layers.{layer}.{part}" for layer in range(2) for part in parts}
    line = formats.line("bfloat16", 2)
    assert f"except {len(formats.dequantized)} parameters" in line


def test_the_estimate_and_the_explanation_name_the_format(tmp_path: Path) -> None:
    spec, path = write_case("llama", "awq", tmp_path)
    config = EngineConfig("tpu", str(path), spec, options={"platform": "cpu"})
    backend, formats = TpuBackend(), formats_of(spec, path)
    item = backend.supports(spec, config).memory[0]
    mesh = make_mesh(1, "cpu")
    assert item.num_bytes == parameter_bytes(spec, mesh, "bfloat16", formats)
    weights = backend.explain(spec, config)[1]
    assert weights.chosen == item.detail
    assert weights.chosen.startswith("int8 and bfloat16, from AWQ")
    assert weights.others == ()
