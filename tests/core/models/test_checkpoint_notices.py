"""Tensors that are skipped when a model is loaded are reported at startup."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.live_server import running_server
from tgi.architectures import load_spec
from tgi.checkpoints.checkpoint import read_headers
from tgi.models.checkpoint_notices import checkpoint_notices
from tgi.testing.tiny_models import write_tiny_model
from tgi.worker.memory.limits import rounding_line

NAME = "model.safetensors"


def notices(folder):
    return checkpoint_notices(folder, load_spec(folder), read_headers(folder))


def change(folder, **tensors):
    save_file(load_file(folder / NAME) | tensors, folder / NAME)


def test_a_usual_checkpoint_has_no_notice(tmp_path):
    write_tiny_model(tmp_path)
    assert notices(tmp_path) == ()


def test_skipped_tensors_are_named(tmp_path):
    write_tiny_model(tmp_path)
    extra = ["v_head.summary.weight", "model.position_ids", "a._extra_state", "b._extra_state"]
    change(tmp_path, **{name: np.ones(2, np.float32) for name in extra})
    assert notices(tmp_path) == (
        "The checkpoint contains 4 tensors that the model does not need: `a._extra_state`,"
        " `b._extra_state`, `model.position_ids` and 1 more. They are skipped.",
    )
    write_tiny_model(tmp_path)
    change(tmp_path, position_ids=np.ones(2, np.int64))
    assert notices(tmp_path) == (
        "The checkpoint contains 1 tensor that the model does not need: `position_ids`. It is"
        " skipped.",
    )


@pytest.mark.parametrize("is_same", [True, False])
def test_a_stored_head_that_is_not_the_embedding_is_named(tmp_path, is_same):
    write_tiny_model(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / NAME)
    embedding = tensors["model.embed_tokens.weight"]
    change(tmp_path, **{"lm_head.weight": embedding if is_same else embedding[::-1] + 1})
    lines = notices(tmp_path)
    assert len(lines) == (0 if is_same else 1)
    if not is_same:
        assert "stores a head (`lm_head.weight`) that differs from the embedding" in lines[0]


def test_a_checkpoint_that_cannot_be_loaded_has_no_notice(tmp_path):
    write_tiny_model(tmp_path)
    tensors = load_file(tmp_path / NAME)
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / NAME)
    assert notices(tmp_path) == ()


@pytest.mark.parametrize(
    ("requested", "stored", "dtype", "is_rounded"),
    [
        (None, "F16", "bfloat16", True),
        (None, "float16", "bfloat16", True),
        (None, "BF16", "bfloat16", False),
        (None, "F16", "float16", False),
        ("bfloat16", "F16", "bfloat16", False),
        (None, "F32", "float32", False),
    ],
)
def test_rounding_of_float16_is_reported(requested, stored, dtype, is_rounded):
    line = rounding_line(requested, stored, dtype)
    assert (line is not None) == is_rounded
    assert line is None or "float16 values are rounded to bfloat16" in line


def test_the_server_logs_the_notices(tmp_path):
    write_tiny_model(tmp_path / "model")
    folder = tmp_path / "model"
    change(folder, position_ids=np.ones(2, np.int64))
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": -1}))
    log = tmp_path / "log"
    with running_server(folder, "null", log):
        text = log.read_text()
    assert "1 tensor that the model does not need: `position_ids`. It is skipped." in text
    assert "`eos_token_id` in generation_config.json contains -1" in text
