"""Every floating-point dtype of a checkpoint is read as float32 by workers and by the reference."""

from __future__ import annotations

import numpy as np
import pytest

from tgi.backend import ModelError
from tgi.checkpoints.safetensors_file import close_files, float32_array, map_checkpoint
from tgi.testing.reference.operations import rounding_to
from tgi.testing.reference.weights import read_weights
from tgi.testing.tiny_models import write_tiny_model

NAME = "model.layers.1.mlp.up_proj.weight"


def read(path):
    tensors = map_checkpoint(path)
    try:
        return float32_array(tensors[NAME])
    finally:
        close_files(tensors)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_tensor_of_any_dtype_is_read_in_float32(dtype, tmp_path):
    write_tiny_model(tmp_path / "exact")
    spec = write_tiny_model(tmp_path / "stored", dtype=dtype)
    expected = rounding_to(dtype)(read(tmp_path / "exact"))
    array = read(tmp_path / "stored")
    assert array.dtype == np.float32
    assert np.array_equal(array, expected)
    weights = read_weights(spec, tmp_path / "stored")
    assert np.array_equal(weights["decoder.layers.1.mlp.up.weight"], expected)


def test_a_tensor_of_integers_is_rejected_by_name(tmp_path):
    write_tiny_model(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"I32"'))
    with pytest.raises(ModelError, match=r"up_proj.*I32"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F800000),
        (0x3F808000, 0x3F800000),  # a tie is rounded to the even neighbour
        (0x3F818000, 0x3F820000),
        (0x3F808001, 0x3F810000),
        (0xBF808001, 0xBF810000),
        (0x7F800000, 0x7F800000),
    ],
)
def test_values_are_rounded_to_the_nearest_bfloat16(bits, rounded):
    value = np.array([bits], np.uint32).view(np.float32)
    assert rounding_to("bfloat16")(value).view(np.uint32).tolist() == [rounded]
