"""Values in config.json that no checkpoint can have, or that do not fit the weights beside it."""

import json
import time

import pytest

from tgi.config import ServeOptions, read_environment
from tgi.errors import ModelError
from tgi.models import describe_model, installed_formats
from tgi.models.source import ModelSource
from tgi.plugins import BackendRegistry
from tgi.testing.tiny_models import ENCODER_DECODERS, FAMILIES, write_tiny_model

ABSURD = {
    "hidden_size": [10**18, 64, 10**7],
    "num_hidden_layers": [10**6, 10**9, 10**4, 3],
    "vocab_size": [10**18, 2**31 - 1, 500],
    "head_dim": [10**18, 10**6],
    "intermediate_size": [10**18, 10**9],
    "num_attention_heads": [10**18, 10**9],
    "rope_theta": [0, -1.0],
    "rms_norm_eps": [-1e-5],
    "max_position_embeddings": [10**18],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("absurd") / "model"
    write_tiny_model(path)
    return path


def describe(folder):
    registry = BackendRegistry(())
    options = ServeOptions()
    return describe_model(
        ModelSource("m", folder), options, read_environment({}), installed_formats(registry)
    )


def change(folder, tmp_path, **fields):
    """A copy of the model with other fields in its config.json."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text()) | fields
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"), [(name, value) for name, values in ABSURD.items() for value in values]
)
def test_an_absurd_value_is_one_sentence_with_its_field(original, tmp_path, field, value):
    folder = change(original, tmp_path, **{field: value})
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        describe(folder)
    assert time.monotonic() - start < 1
    assert f"`{field}`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers"])
def test_a_family_that_is_not_built_in_has_the_same_limits(original, tmp_path, field):
    folder = change(original, tmp_path, model_type="unknown", **{field: 10**18})
    with pytest.raises(ModelError, match=f"`{field}`"):
        describe(folder)


@pytest.mark.parametrize("family", sorted(FAMILIES | ENCODER_DECODERS))
def test_models_whose_config_fits_their_weights_are_described(tmp_path, family):
    spec = write_tiny_model(tmp_path / "model", family)
    assert describe(tmp_path / "model").spec == spec
