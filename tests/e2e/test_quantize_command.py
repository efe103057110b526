"""`tgi quantize` as a process, and a server with its result."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.e2e.documented_commands import blocks, read_page
from tests.live_server import running_server
from tests.near_ties import assert_equal_up_to_near_ties, generated
from tgi.checkpoints.checkpoint import open_checkpoint
from tgi.cli import main
from tgi.cli.former_commands import server_main
from tgi.models.output_folder import new_folder
from tgi.testing.tiny_models import write_tiny_model

LIMITS = ("--max-total-tokens", "64", "--max-batch-size", "2", "--max-batch-prefill-tokens", "16")
TEXT = "The quick brown fox jumps over the lazy dog. A river flows to the sea. " * 20
SIZES = {"hidden_size": 128, "intermediate_size": 256}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    write_tiny_model(folder / "source", dtype="bfloat16", **SIZES)
    (folder / "text").write_text(TEXT)
    (folder / "source" / "notes.txt").write_text("kept")
    return folder / "source"


@pytest.fixture(scope="module")
def quantized(source):
    output = source.parent / "quantized"
    text = str(source.parent / "text")
    words = ["--groupsize", "32", "--act-order", "--calibration-text", text]
    assert server_main(["quantize", str(source), str(output), *words, "--json-output"]) == 0
    return output


def dequantized(quantized, folder):
    """The same model with the dequantized weights in bfloat16."""
    shutil.copytree(quantized, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with open_checkpoint(quantized) as checkpoint:
        tensors = {
            name: value
            for name, value in load_file(quantized / "model.safetensors").items()
            if name in checkpoint.tensors.plain
        }
        for name, tensor in checkpoint.tensors.quantized.items():
            weights = checkpoint.decode(name, None, slice(0, tensor.shape[0])).dequantize()
            tensors[name] = torch.from_numpy(weights).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_served_tokens_are_those_of_the_dequantized_model(quantized, tmp_path):
    parameters = {"max_new_tokens": 32, "details": True, "top_n_tokens": 2}
    parameters |= {"ignore_eos": True}
    body = {"inputs": "The quick brown fox", "parameters": parameters}
    found = []
    for path in (quantized, dequantized(quantized, tmp_path / "dequantized")):
        with running_server(path, "cpu", tmp_path / "log", *LIMITS) as server:
            response = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
        found.append(generated(response))
    assert len(found[0][0]) == 32
    assert_equal_up_to_near_ties(*found)


def test_all_other_files_are_copied(source, quantized):
    names = {path.name for path in source.iterdir()}
    assert {path.name for path in quantized.iterdir()} == names
    assert (quantized / "notes.txt").read_text() == "kept"
    section = json.loads((quantized / "config.json").read_text())["quantization_config"]
    assert section["quant_method"] == "gptq"
    assert (section["bits"], section["group_size"], section["desc_act"]) == (4, 32, True)


def test_the_command_of_the_page(source, tmp_path):
    block = next(text for text in blocks(read_page("quantization.md"), "sh") if "quantize" in text)
    command, serve = map(shlex.split, block.splitlines())
    names = {"MODEL": str(source), "quantized": str(tmp_path / "quantized")}
    words = [names.get(word, word) for word in command[1:]]
    assert main([*words, "--calibration-text", str(source.parent / "text")]) == 0
    section = json.loads((tmp_path / "quantized" / "config.json").read_text())
    assert section["quantization_config"]["group_size"] == 128
    assert serve == ["tgi", "serve", "quantized"]


def run(capsys, *words):
    code = main(["quantize", *map(str, words)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bits", "5"], "invalid value '5' for '--bits': allowed are 2, 3, 4 or 8"),
        (["--bits", "x"], "argument --bits: invalid int value: 'x'"),
        (["--groupsize", "0"], "invalid value '0' for '--groupsize'"),
        (["--groupsize", "-2"], "invalid value '-2' for '--groupsize'"),
        (["--groupsize", "12"], "invalid value '12' for '--groupsize'"),
        (["--percdamp", "nan"], "invalid value 'nan' for '--percdamp'"),
        (["--percdamp", "0"], "invalid value '0.0' for '--percdamp'"),
        (["--num-samples", "0"], "invalid value '0' for '--num-samples'"),
        (["--sequence-length", "3"], "invalid value '3' for '--sequence-length'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_invalid_options_are_rejected(source, tmp_path, capsys, words, message):
    code, printed = run(capsys, source, tmp_path / "out", *words)
    assert code == 2
    assert message in printed
    assert not list(tmp_path.iterdir())


def test_unusable_models_and_folders_are_rejected(source, quantized, tmp_path, capsys):
    def failure(*words):
        code, printed = run(capsys, *words)
        assert code == 1
        assert printed.count("\n") == 1
        return printed

    out = tmp_path / "out"
    assert "exists already" in failure(source, quantized)
    assert "does not exist" in failure(source, tmp_path / "a" / "b")
    assert "is already quantized (GPTQ, 4 bits" in failure(quantized, out)
    assert "does not exist" in failure(tmp_path / "none", out)
    assert "is not a file" in failure(source, out, "--calibration-text", tmp_path)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert "byte 3 is invalid" in failure(source, out, "--calibration-text", tmp_path / "latin")
    (tmp_path / "empty").write_text("")
    assert "has 0 tokens" in failure(source, out, "--calibration-text", tmp_path / "empty")
    assert "cannot quantize models" in failure(source, out, "--backend", "null")
    assert {path.name for path in tmp_path.iterdir()} == {"latin", "empty"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_leaves_no_output_folder(source, tmp_path, number):
    command = [sys.executable, "-m", "tgi", "quantize", str(source), str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        # The first line is printed after the temporary folder was created.
        assert process.stderr.readline().startswith("calibration text: ")
        assert (tmp_path / ".out.partial").exists()
        os.kill(process.pid, number)
        process.wait(60)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.partial").exists() == (number == signal.SIGKILL)
    with new_folder(tmp_path / "out") as folder:
        assert not list(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_removes_the_folder_and_a_second_writer_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="stop"), new_folder(tmp_path / "out") as folder:
        (folder / "part").write_text("")
        with pytest.raises(Exception, match="Another process writes"):
            new_folder(tmp_path / "out").__enter__()
        assert (folder / "part").exists()
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())
