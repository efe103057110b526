"""The page of supported models is computed from the families and the backends, and does not depend
on the machine.
"""

from __future__ import annotations

import pytest

from tgi.architectures.families import mistral
from tgi_cpu import machine, native_support
from tgi_tpu import backend as tpu_backend
from tgi_tpu.chips import Chip
from tools.model_support import Status, accepted_quantizations, status_of
from tools.published_models import published_models
from tools.supported_models import PAGE, supported_models_page

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
MISTRAL = "mistralai/Mistral-7B-v0.1"


@pytest.fixture(scope="module")
def models():
    return published_models()


def named(models, name):
    return next(model for model in models if model.name == name)


def rows(page, model_type):
    return [line for line in page.splitlines() if f"| `{model_type}` |" in line]


def test_the_page_equals_the_families_and_backends(models):
    page = supported_models_page(models)
    assert PAGE.read_text(encoding="utf-8") == page, "run: python -m tools.supported_models"


def test_a_changed_family_changes_the_page(models, monkeypatch):
    page = PAGE.read_text(encoding="utf-8")
    original = mistral.spec
    same = [model for model in models if model.model_type == "mistral"]
    unchanged = supported_models_page(tuple(same))
    assert rows(unchanged, "mistral")[:3] == rows(page, "mistral")[:3]
    monkeypatch.setattr(mistral, "spec", lambda config: original(config | {"sliding_window": None}))
    changed = [model for model in published_models() if model.model_type == "mistral"]
    assert rows(supported_models_page(tuple(changed)), "mistral")[0] not in page


def test_a_changed_backend_changes_the_status(models, monkeypatch):
    model = named(models, LLAMA)
    assert status_of("cpu", model) == Status("native")
    monkeypatch.delitem(native_support.ACTIVATIONS, "silu")
    assert status_of("cpu", model) == Status("torch", "the activation silu")


def test_a_rejected_model_has_the_reason(models):
    model = named(models, "Qwen/Qwen2.5-VL-7B-Instruct")
    status = status_of("cpu", model)
    assert status.name == "rejected"
    assert status.reason.startswith("it has no text-only generation class for `Qwen2_5_VLConfig`")
    assert status_of("tpu", model).text == "rejected: the architecture `qwen2_5_vl` is not known"


@pytest.mark.parametrize("has_products", [True, False])
@pytest.mark.parametrize("memory", [1 << 30, 1 << 44])
def test_the_processor_does_not_affect_the_status(models, has_products, memory, monkeypatch):
    monkeypatch.setattr(machine, "has_bfloat16_products", lambda: has_products)
    monkeypatch.setattr(machine, "total_memory", lambda: memory)
    assert status_of("cpu", named(models, LLAMA)) == Status("native")
    assert accepted_quantizations("cpu", named(models, LLAMA))[0] == "eetq"


@pytest.mark.parametrize("chips", [(), (Chip("v5e", 16 << 30),) * 4])
def test_the_chips_do_not_affect_the_status(models, chips, monkeypatch):
    monkeypatch.setattr(tpu_backend, "find_chips", lambda: chips)
    assert status_of("tpu", named(models, LLAMA)) == Status("native")
    assert accepted_quantizations("tpu", named(models, LLAMA)) == ("eetq", "bitsandbytes", "int8")
