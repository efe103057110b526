"""`tgi convert` keeps all tensors, and does not execute code in a hostile file."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.backends.checkpoints import save_checkpoint
from tgi.architectures import load_spec
from tgi.architectures.checkpoint import stored_tensors
from tgi.backend import ModelError
from tgi.cli import main
from tgi_torch.model.decoder import build_decoder
from tgi_torch.ops import REFERENCE
from tgi_torch.weights import pickled_weights
from tgi_torch.weights.loading import load_weights

NAME = "pytorch_model.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen2")
    save_checkpoint("qwen2", path)  # the head is tied to the embedding
    return path


@pytest.fixture
def pickled(original, tmp_path):
    """A folder as `save_pretrained` wrote it before safetensors.

    It contains tied weights twice, with shared memory.
    """
    path = tmp_path / "pickled"
    path.mkdir()
    shutil.copy(original / "config.json", path)
    tensors = load_file(original / "model.safetensors")
    return path, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}


def convert(*words):
    return main(["convert", *map(str, words)])


def loaded(path):
    decoder = build_decoder(load_spec(path), REFERENCE, torch.float32, "cpu")
    load_weights(decoder, path, lambda done, total: None)
    return decoder.parameters.by_parameter


@pytest.mark.parametrize("zipped", [True, False])
def test_one_file(original, pickled, tmp_path, zipped):
    path, tensors = pickled
    torch.save(tensors, path / NAME, _use_new_zipfile_serialization=zipped)
    if zipped:
        assert convert(path, tmp_path / "out") == 0
    else:
        pickled_weights.convert(path, tmp_path / "out")
    converted = load_file(tmp_path / "out" / "model.safetensors")
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors.items())
    ours, expected = loaded(tmp_path / "out"), loaded(original)
    assert all(torch.equal(ours[parameter], tensor) for parameter, tensor in expected.items())
    assert sorted(file.name for file in path.iterdir()) == ["config.json", NAME]


def test_several_files_in_place(original, pickled):
    path, tensors = pickled
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file_name = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(
            {
                name: tensors[name].t() if tensors[name].dim() == 2 else tensors[name]
                for name in part
            },
            path / file_name,
        )
        index |= dict.fromkeys(part, file_name)
    (path / f"{NAME}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    pickled_weights.convert(path, path)
    assert stored_tensors(path).keys() == tensors.keys()
    files = sorted(file.name for file in path.glob("*.safetensors*"))
    assert files == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    for file in path.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(
                tensor, tensors[name].t() if tensors[name].dim() == 2 else tensors[name]
            )


class Hostile:
    """Unpickling it writes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def refused(source, output=None):
    """The error message of a conversion in this process."""
    with pytest.raises(ModelError) as caught:
        pickled_weights.convert(source, source if output is None else output)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_executes_nothing(pickled, tmp_path, capsys, zipped):
    path, tensors = pickled
    torch.save(
        tensors | {"x": Hostile(tmp_path / "canary")},
        path / NAME,
        _use_new_zipfile_serialization=zipped,
    )
    assert "mkdir" in refused(path)
    if zipped:
        assert convert(path) == 1
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert not out
        assert NAME in line
        assert "mkdir" in line
    assert not (tmp_path / "canary").exists()
    assert not list(path.glob("*safetensors*"))
    torch.load(path / NAME, weights_only=False)
    assert (tmp_path / "canary").exists()  # an unrestricted load does execute the code


INDEX_NAMES = {
    "../x.bin": "points outside the folder",
    "gone.bin": "not a file in the same folder",
    "": "points outside the folder",
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "a list, not tensors by name"),
        ({"model": {"weight": torch.ones(2)}}, "the entry 'model' is not a plain tensor"),
        ({"weight": torch.eye(2).to_sparse()}, "the entry 'weight' is not a plain tensor"),
        ({}, "a dict, not tensors by name"),
    ],
)
def test_files_without_tensors_are_rejected(tmp_path, content, words):
    torch.save(content, tmp_path / NAME)
    assert words in refused(tmp_path)


def test_damaged_and_missing_files_are_rejected(tmp_path):
    assert "neither pytorch_model.bin nor" in refused(tmp_path)
    (tmp_path / NAME).write_bytes(b"no weights at all")
    assert NAME in refused(tmp_path)
    for name, words in INDEX_NAMES.items():
        (tmp_path / f"{NAME}.index.json").write_text(json.dumps({"weight_map": {"weight": name}}))
        assert words in refused(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", '{"weight_map": {"a": 1}}', ""])
def test_a_malformed_index_is_rejected(tmp_path, content):
    (tmp_path / f"{NAME}.index.json").write_text(content)
    assert "the index" in refused(tmp_path)


def test_an_index_is_read_only_from_a_regular_file_in_the_folder(tmp_path):
    index = tmp_path / f"{NAME}.index.json"
    os.mkfifo(index)
    assert "not a regular file" in refused(tmp_path)
    index.unlink()
    index.write_text(json.dumps({"weight_map": {"weight": "part.bin"}}))
    (tmp_path.parent / "outside.bin").write_bytes(b"")
    (tmp_path / "part.bin").symlink_to(tmp_path.parent / "outside.bin")
    assert "points outside the folder" in refused(tmp_path)


def test_nothing_is_overwritten(original, pickled):
    path, tensors = pickled
    torch.save(tensors, path / NAME)
    assert "there are .safetensors files already" in refused(path, original)


def test_wrong_arguments_and_help(capsys):
    assert convert() == 2
    assert convert("--fast", "x") == 2
    assert convert("no/such/folder") == 1
    assert convert("--help") == 0
    assert main([]) == 0
    assert "  convert  " in capsys.readouterr().out
