"""The published config of a family, and the config that transformers 5 writes for it, have the same
spec.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from tests.backends.published_configs import PUBLISHED, PUBLISHED_LATENT
from tests.backends.published_variants import PUBLISHED_VARIANTS
from tgi.architectures import GenericSpec, ModelSpec, load_spec
from tgi_tpu.coverage import unsupported

FAMILIES = PUBLISHED | PUBLISHED_LATENT
VARIANTS = {
    **{family: (family, {}) for family in FAMILIES},
    **{name: item for name, item in PUBLISHED_VARIANTS.items() if item[0] in FAMILIES},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_spec_of_both_files(name: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[name]
    config = FAMILIES[family] | changes
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": family}))
    published = load_spec(tmp_path)
    AutoConfig.for_model(family, **config).save_pretrained(tmp_path)

    assert isinstance(published, ModelSpec)
    assert load_spec(tmp_path) == published
    assert "transformers_version" in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tpu_backend_supports_plain_attention(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES[family] | {"model_type": family}))
    reason = unsupported(load_spec(tmp_path))
    assert reason == (
        "latent attention is not supported by this backend" if family in PUBLISHED_LATENT else None
    )


def test_a_granite_hybrid_with_mamba_layers_runs_with_the_code_of_transformers(
    tmp_path: Path,
) -> None:
    config = FAMILIES["granitemoehybrid"] | {"layer_types": ["mamba", "attention", "mamba"]}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config | {"model_type": "granitemoehybrid"}))
    spec = load_spec(tmp_path)
    assert isinstance(spec, GenericSpec)
    assert (spec.model_type, spec.num_layers, spec.config["layer_types"][0]) == (
        "granitemoehybrid",
        3,
        "mamba",
    )
