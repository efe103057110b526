"""Models in GGUF files: equal to their twins in Hugging Face format, in spec and weights."""

import json
import shutil
import struct

import numpy as np
import pytest

from tests.core.checkpoints.gguf_blocks import random_rows
from tests.core.checkpoints.gguf_twins import FAMILIES, HEAD_DIM, VOCAB, write_twins
from tests.core.checkpoints.gguf_writer import GgufFile, Tensor
from tgi.architectures import load_spec
from tgi.backend import GGUF
from tgi.checkpoints.checkpoint import open_checkpoint, read_headers
from tgi.checkpoints.gguf.container import read_gguf
from tgi.checkpoints.gguf.model_folder import gguf_model_folder
from tgi.checkpoints.quantized import QuantizedMatrix
from tgi.config import Environment, ServeOptions
from tgi.errors import ModelError
from tgi.models import ModelSource, describe_model, find_tokenizer, usable_formats
from tgi.plugins import BackendRegistry
from tgi.testing.reference.weights import read_weights
from tgi.worker.checkpoint import check_checkpoint, quantized_parameters


def described(path, cache, **options):
    readable = usable_formats(BackendRegistry(), "null")
    environment = Environment(cache_folder=str(cache))
    return describe_model(
        ModelSource("m", path, GGUF), ServeOptions(**options), environment, readable
    )


def first_mixer(spec):
    """The attention of the first layer."""
    return spec.decoder.layers[0].blocks[0].branches[0].mixer


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_has_the_spec_and_the_weights_of_its_twin(tmp_path, name):
    path, twin = write_twins(tmp_path, name)
    model = described(path, tmp_path / "cache")
    spec = load_spec(twin)
    assert model.spec == spec
    check_checkpoint(path, spec)
    expected, weights = read_weights(spec, twin), read_weights(spec, path)
    assert weights.keys() == expected.keys()
    for parameter, values in expected.items():
        np.testing.assert_array_equal(weights[parameter], values, err_msg=parameter)


def test_the_formats_of_parameters_are_known_from_the_header(tmp_path):
    path, twin = write_twins(tmp_path, "llama", kinds=("Q4_1",))
    formats = quantized_parameters(load_spec(twin), path)
    assert {item.format.name for item in formats.values()} == {"int4 in groups of 32"}
    assert "decoder.layers.1.attention.q.weight" in formats
    assert "decoder.final_norm.weight" not in formats
    headers = read_headers(path)
    assert headers.format.name == "gguf"
    assert headers.format.description == "GGUF, Q4_1"
    size = (HEAD_DIM * 4) * 64 // 32 * 20
    assert headers.num_bytes("model.layers.0.self_attn.q_proj.weight") == size


def test_a_file_without_quantized_tensors_has_no_format(tmp_path):
    path, _ = write_twins(tmp_path, "llama", kinds=("F16",))
    assert read_headers(path).format is None


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "Q8_0"])
def test_rows_are_decoded_in_pieces(tmp_path, kind):
    """Rows of some heads are the same rows of the whole matrix, in the order of Hugging Face."""
    data, values = random_rows(kind, (64, 256), np.random.default_rng(2))
    path, _ = write_twins(tmp_path, "llama", kinds=("F32",))
    whole = read_gguf(path)
    keys = dict(whole.metadata._values) | {"tokenizer.ggml.token_type": [1] * VOCAB}
    tensors = {
        "token_embd.weight": Tensor("F32", (4, 4), bytes(64)),
        "blk.0.attn_q.weight": Tensor(kind, (64, 256), data),
    }
    file = GgufFile(keys, tensors).write(tmp_path / "rows.gguf")
    name = "model.layers.0.self_attn.q_proj.weight"
    with open_checkpoint(file) as checkpoint:
        assert checkpoint.tensors.quantized[name].row_multiple == HEAD_DIM
        matrices = [
            checkpoint.decode(name, None, slice(start, start + 2 * HEAD_DIM))
            for start in range(0, 64, 2 * HEAD_DIM)
        ]
    assert all(isinstance(matrix, QuantizedMatrix) for matrix in matrices)
    rows = np.concatenate([matrix.dequantize() for matrix in matrices])
    expected = values.reshape(4, HEAD_DIM // 2, 2, 256).swapaxes(1, 2).reshape(64, 256)
    np.testing.assert_array_equal(rows, expected)


def test_factors_of_frequencies(tmp_path):
    """The factors of llama 3 are recognized. All other factors are used as they are stored."""
    plain = 5000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    turns = 8192 * plain / (2 * np.pi)
    kept = np.clip((turns - 1) / 3, 0, 1)
    factors = (1 / ((1 - kept) / 32 + kept)).astype(np.float32)
    digests = set()
    for values, kind in ((factors, "llama3"), (factors * 1.5, "longrope"), (factors * 0 + 1, None)):
        folder = tmp_path / str(kind)
        folder.mkdir()
        path, _ = write_twins(folder, "llama", kinds=("F32",))
        whole = path.read_bytes()
        file = rewritten(path, "rope_freqs.weight", values)
        assert file.read_bytes() != whole
        scaling = first_mixer(described(file, folder).spec).rope.scaling
        if kind is None:
            assert scaling is None
        elif kind == "llama3":
            assert (scaling.factor, scaling.original_max_positions) == (32.0, 8192)
        else:
            np.testing.assert_array_equal(scaling.short_factor, values)
            assert scaling.attention_factor == 1.0
        check_checkpoint(file, load_spec(gguf_model_folder(file, str(folder))))
        digests.add(read_gguf(file).digest)
    assert len(digests) == 3, "files with other factors have another config"


def rewritten(path, name, values):
    """The file with one more tensor."""
    whole = read_gguf(path)
    data = path.read_bytes()
    tensors = {
        tensor.name: Tensor("F32", tensor.shape, data[tensor.start :][: tensor.num_bytes])
        for tensor in whole.tensors.values()
    }
    keys = dict(whole.metadata._values) | {"tokenizer.ggml.token_type": [1] * VOCAB}
    tensors[name] = Tensor("F32", values.shape, values.astype("<f4").tobytes())
    return GgufFile(keys, tensors).write(path.with_name("other.gguf"))


def test_phi3_with_long_and_short_factors(tmp_path):
    path, _ = write_twins(tmp_path, "phi3", kinds=("F32",))
    short, long = np.linspace(1, 2, 4), np.linspace(3, 4, 4)
    file = rewritten(path, "rope_factors_short.weight", short)
    file = rewritten(file.rename(path), "rope_factors_long.weight", long)
    scaling = first_mixer(described(file, tmp_path / "cache").spec).rope.scaling
    np.testing.assert_allclose(scaling.short_factor, short, rtol=1e-6)
    np.testing.assert_allclose(scaling.long_factor, long, rtol=1e-6)


CHANGES = {
    "an unknown architecture": ({"general.architecture": "rwkv7"}, "Known architectures are gemma"),
    "no architecture": ({"general.architecture": 3}, "`general.architecture` must be a string"),
    "a missing size": ({"llama.block_count": "x"}, "`llama.block_count` must be a whole number"),
    "too many layers": ({"llama.block_count": 3}, "the weights have 2 layers"),
    "another size": ({"llama.embedding_length": 128}, "model.embed_tokens.weight"),
    "heads that do not fit": ({"llama.attention.head_count": 3}, "do not divide"),
    "an unknown scaling": ({"llama.rope.scaling.type": "x"}, "the scaling `x`"),
    "values of another size": ({"llama.attention.value_length": 8}, "different sizes"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_metadata_that_do_not_fit_are_rejected(tmp_path, change):
    changes, part = CHANGES[change]
    path, _ = write_twins(tmp_path, "llama", changes=changes)
    with pytest.raises(ModelError) as caught:
        described(path, tmp_path / "cache")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("blk.0.ffn_up.weight", "IQ4_NL", "has the type IQ4_NL, which cannot be read"),
        ("blk.0.strange.weight", "F32", "`blk.0.strange.weight`"),
        ("blk.0.ffn_up.bias", "F32", "mlp"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, name, kind, part):
    path, twin = write_twins(tmp_path, "llama", kinds=("F32",))
    file = rewritten(path, name, np.zeros((128, 64), np.float32))
    if kind == "IQ4_NL":
        shape = name.encode() + struct.pack("<IQQ", 2, 64, 128)
        data = file.read_bytes()
        assert shape in data
        file.write_bytes(data.replace(shape + struct.pack("<I", 0), shape + struct.pack("<I", 20)))
    with pytest.raises(ModelError) as caught:
        described(file, tmp_path / "cache")
        check_checkpoint(file, load_spec(twin))
    assert part in str(caught.value)
    assert "other.gguf" in str(caught.value)


def test_files_beside_the_model_are_not_read(tmp_path):
    path, twin = write_twins(tmp_path, "llama")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    model = described(path, tmp_path / "cache")
    assert model.spec == load_spec(twin)
    assert find_tokenizer(model).is_relative_to(tmp_path / "cache")


def test_a_tokenizer_beside_the_model_is_used_if_the_file_has_none(tmp_path):
    path, twin = write_twins(tmp_path, "llama", changes={"tokenizer.ggml.model": "none"})
    model = described(path, tmp_path / "cache")
    with pytest.raises(ModelError, match="kind of tokenizer is `none`"):
        find_tokenizer(model)
    shutil.copy(twin / "tokenizer.json", tmp_path)
    assert find_tokenizer(described(path, tmp_path / "cache")) == tmp_path


def test_options_for_the_rotary_embedding(tmp_path):
    path, _ = write_twins(tmp_path, "llama")
    model = described(path, tmp_path / "cache", rope_scaling="dynamic", rope_factor=2.0)
    assert model.spec.max_positions == 1024


def test_the_description_is_written_once_for_each_content(tmp_path):
    path, _ = write_twins(tmp_path, "llama")
    folder = gguf_model_folder(path, str(tmp_path / "cache"))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    moved = shutil.copy(path, tmp_path / "moved.gguf")
    assert gguf_model_folder(moved, str(tmp_path / "cache")) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    other = tmp_path / "other"
    other.mkdir()
    changed, _ = write_twins(other, "llama", changes={"general.name": "another"})
    assert gguf_model_folder(changed, str(tmp_path / "cache")) != folder


def test_a_cache_that_cannot_be_written(tmp_path):
    path, _ = write_twins(tmp_path, "llama")
    (tmp_path / "cache").write_text("")
    with pytest.raises(ModelError, match="Set XDG_CACHE_HOME"):
        gguf_model_folder(path, str(tmp_path / "cache"))


def test_a_folder_that_transformers_saved_from_a_file_is_not_quantized(tmp_path):
    """The config names the method, but the weights in the folder are dequantized."""
    _, twin = write_twins(tmp_path, "llama")
    config = json.loads((twin / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gguf", "gguf_file": "a.gguf"}
    (twin / "config.json").write_text(json.dumps(config))
    assert read_headers(twin).format is None
