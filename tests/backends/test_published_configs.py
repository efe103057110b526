"""The published config of a family, and the config that transformers 5 writes for it, have the same
spec.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from tests.backends.published_configs import PUBLISHED, PUBLISHED_LATENT
from tests.backends.published_hybrids import HYBRID_VARIANTS, PUBLISHED_HYBRIDS
from tests.backends.published_variants import PUBLISHED_VARIANTS
from tgi.architectures import GenericSpec, ModelSpec, load_spec
from tgi_cpu.native_support import unsupported as not_native
from tgi_tpu.coverage import unsupported

FAMILIES = PUBLISHED | PUBLISHED_LATENT
VARIANTS = {
    **{family: (family, {}) for family in FAMILIES},
    **{name: item for name, item in PUBLISHED_VARIANTS.items() if item[0] in FAMILIES},
}
HYBRIDS = {family: (family, {}) for family in PUBLISHED_HYBRIDS} | HYBRID_VARIANTS
FIRST_MIXERS = {
    "lfm2": "short convolution",
    "lfm3": "short convolution",
    "minimax": "lightning attention",
    "lfm2_moe": "short convolution",
    "qwen3_5_moe_text": "linear attention",
    "qwen3_5_text": "linear attention",
    "recurrent_gemma": "gated recurrence",
}
"""Families whose first mixer is not a state space."""
UNSUPPORTED_ON_TPUS = {
    "gemma4_text": "a norm of the values",
    "llama4_text": "attention in chunks",
    "mimo_v2_flash": "attention whose values have a different size than its keys",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_spec_of_both_files(name: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[name]
    check_spec_of_both_files(family, FAMILIES[family] | changes, tmp_path)


@pytest.mark.parametrize("name", HYBRIDS)
def test_spec_of_both_files_of_a_hybrid(name: str, tmp_path: Path) -> None:
    family, changes = HYBRIDS[name]
    check_spec_of_both_files(family, PUBLISHED_HYBRIDS[family] | changes, tmp_path)


def check_spec_of_both_files(family: str, config: dict[str, Any], path: Path) -> None:
    (path / "config.json").write_text(json.dumps(config | {"model_type": family}))
    published = load_spec(path)
    AutoConfig.for_model(family, **config).save_pretrained(path)

    assert isinstance(published, ModelSpec)
    assert load_spec(path) == published
    assert "transformers_version" in json.loads((path / "config.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tpu_backend_supports_plain_attention(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES[family] | {"model_type": family}))
    reason = unsupported(load_spec(tmp_path))
    part = "latent attention" if family in PUBLISHED_LATENT else UNSUPPORTED_ON_TPUS.get(family)
    assert reason == (None if part is None else f"{part} is not supported by this backend")


def test_backends_reject_parts_of_gemma4(tmp_path: Path) -> None:
    config = FAMILIES["gemma4_text"] | {"model_type": "gemma4_text"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    assert {
        "an embedding per layer",
        "the mixer LayerInput",
        "a scale on the residual",
        "attention over the keys of another layer",
        "a norm of the values",
    } <= set(not_native(spec))
    mixture = config | {"enable_moe_block": True}
    (tmp_path / "config.json").write_text(json.dumps(mixture))
    assert isinstance(load_spec(tmp_path), GenericSpec)


def test_backends_reject_parts_of_llama4(tmp_path: Path) -> None:
    config = FAMILIES["llama4_text"] | {"model_type": "llama4_text"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = load_spec(tmp_path)
    assert isinstance(spec, ModelSpec)
    assert "attention in chunks" in not_native(spec)
    full = config | {"layer_types": ["full_attention"] * 3}
    (tmp_path / "config.json").write_text(json.dumps(full))
    assert unsupported(load_spec(tmp_path)) == (
        "experts with weighted inputs are not supported by this backend"
    )


@pytest.mark.parametrize("family", PUBLISHED_HYBRIDS)
def test_backends_without_a_mixer_name_it(family: str, tmp_path: Path) -> None:
    config = PUBLISHED_HYBRIDS[family] | {"model_type": family}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = load_spec(tmp_path)
    mixer = FIRST_MIXERS.get(family, "state space")
    if family != "falcon_h1":  # attention is the first mixer
        assert unsupported(spec) == f"{mixer} is not supported by this backend"
    assert unsupported(spec) is not None
    assert isinstance(spec, ModelSpec)
    assert f"the mixer {mixer.title().replace(' ', '')}" in not_native(spec)


def test_nemotron_h_with_latent_experts_runs_with_the_code_of_transformers(tmp_path: Path) -> None:
    config = PUBLISHED_HYBRIDS["nemotron_h"] | {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "ME*",
        "moe_latent_size": 16,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    spec = load_spec(tmp_path)
    assert isinstance(spec, GenericSpec)
    assert (spec.model_type, spec.num_layers) == ("nemotron_h", 3)
