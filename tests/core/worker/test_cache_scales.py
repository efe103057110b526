"""The scales of a quantized cache, read from a checkpoint."""

import json
import struct

import pytest

from tests.core.checkpoints.gguf_twins import write_twins
from tgi.architectures import load_spec
from tgi.testing.tiny_models import write_tiny_model
from tgi.worker.cache_scales import cache_coding


def add_scale(path, name, value):
    """Append a tensor with one float32 to the file of a checkpoint."""
    file = path / "model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8:end]), content[end:] + struct.pack("<f", value)
    header[name] = {"dtype": "F32", "shape": [], "data_offsets": [len(data) - 4, len(data)]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("name", ["fp8_e4m3fn", "int8"])
def test_a_gguf_file_has_no_scales(tmp_path, name):
    path, twin = write_twins(tmp_path, "llama")
    coding = cache_coding(name, path, load_spec(twin))
    assert not coding.from_checkpoint
    assert {(scales.key, scales.value) for scales in coding.scales} == {(1.0, 1.0)}


def test_scales_of_a_safetensors_file(tmp_path):
    spec = write_tiny_model(tmp_path)
    add_scale(tmp_path, "model.layers.1.self_attn.k_scale", 0.5)
    coding = cache_coding("fp8_e4m3fn", tmp_path, spec)
    assert coding.from_checkpoint
    assert [(scales.key, scales.value) for scales in coding.scales] == [(1.0, 1.0), (0.5, 1.0)]
