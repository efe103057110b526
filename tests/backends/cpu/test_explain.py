"""`explain` of the CPU backend reports how it computes a model."""

from __future__ import annotations

import pytest
from msgspec import structs

from tgi.backend import EngineConfig, Explainer
from tgi.testing.tiny_models import write_tiny_model
from tgi_cpu.backend import CpuBackend, native_weights_format
from tgi_cpu.native import load_library
from tgi_cpu.native_support import unsupported
from tgi_cpu.worker import unsupported_reason


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [("float32", "bfloat16, not float32"), ("float16", "bfloat16, not float16")],
)
def test_the_reason_against_the_native_kernels_is_given(dtype, reason, tmp_path):
    library = load_library()
    if library is None or not library.is_supported:
        reason = ""
    spec = write_tiny_model(tmp_path)
    (layers,) = CpuBackend().explain(spec, EngineConfig("cpu", str(tmp_path), spec, dtype=dtype))
    assert (layers.operation, layers.chosen) == ("layers", "torch operations")
    ((other, why),) = layers.others
    assert other == "native kernels"
    assert why
    assert reason in why


def test_the_reported_implementation_is_used(tmp_path):
    spec = write_tiny_model(tmp_path)
    config = EngineConfig("cpu", str(tmp_path), spec, dtype="bfloat16")
    backend = CpuBackend()
    assert isinstance(backend, Explainer)
    chosen = {entry.operation: entry.chosen for entry in backend.explain(spec, config)}
    is_native = not unsupported_reason(config, load_library())
    assert (chosen["layers"] == "native kernels") == is_native
    expected = native_weights_format("float32")
    assert (chosen.get("weights") == expected) == is_native


def test_only_bfloat16_weights_are_stored_without_loss():
    assert native_weights_format("bfloat16") == "bfloat16 in 12 bits without loss"
    for stored in ("float16", "float32"):
        assert native_weights_format(stored) == f"{stored} rounded to bfloat16, in 12 bits"


def test_the_unsupported_parts_of_attention_are_named(tmp_path):
    attention = {
        "clip_qkv": (1.0, "a limit on the values of queries and keys"),
        "output_gate": (True, "a gate on the output of the attention"),
        "causal": (False, "attention to later positions"),
    }
    spec = write_tiny_model(tmp_path)
    [stack] = spec.stacks
    [block, *blocks] = stack.layers[0].blocks
    [branch] = block.branches
    for field, (value, name) in attention.items():
        mixer = structs.replace(branch.mixer, **{field: value})
        changed = structs.replace(block, branches=(structs.replace(branch, mixer=mixer),))
        layer = structs.replace(stack.layers[0], blocks=(changed, *blocks))
        other = structs.replace(stack, layers=(layer, *stack.layers[1:]))
        assert unsupported(structs.replace(spec, stacks=(other,))) == (name,)
