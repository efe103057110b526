"""`tgi inspect`, `tgi doctor`, `tgi migrate` and `tgi serve` give the same status of a model."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.live_server import free_port, running_server
from tgi.cli import main

BACKEND = ("--backend", "reference")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def with_config(**fields):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def with_text(name, text):
    return lambda folder: (folder / name).write_text(text)


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_tensors(change):
    def rewrite(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return rewrite


def renamed(new):
    return lambda folder: (folder / "model.safetensors").rename(folder / new)


NORM = "model.layers.1.input_layernorm.weight"
WHOLE = {
    "whole": lambda folder: None,
    "without a chat template": without("tokenizer_config.json"),
    "in another file": renamed("weights.safetensors"),
    "with a left-over tensor": with_tensors(lambda t: t.update({"v_head.w": np.ones(2, "f4")})),
}
BROKEN = {
    "no tokenizer": (without("tokenizer.json"), "contains neither tokenizer.json nor"),
    "no weights": (without("model.safetensors"), "there is no .safetensors file"),
    "no config": (without("config.json"), "contains no config.json"),
    "neither tokenizer nor weights": (
        without("tokenizer.json", "model.safetensors"),
        "contains neither tokenizer.json nor",
    ),
    "truncated weights": (truncated, "ends at byte"),
    "a lost tensor": (with_tensors(lambda t: t.pop(NORM)), "has no tensor"),
    "an unknown tensor": (
        with_tensors(lambda t: t.update({"model.extra.weight": np.ones(2, "f4")})),
        "contains tensors that a llama model with this config.json does not have",
    ),
    "a tensor of another shape": (
        with_tensors(lambda t: t.update({NORM: np.ones(5, "f4")})),
        "but config.json requires",
    ),
    "a tensor of integers": (
        with_tensors(lambda t: t.update({NORM: np.ones(32, "i4")})),
        "has the dtype I32",
    ),
    "pickled weights": (renamed("pytorch_model.bin"), "only pickled weights"),
    "a GGUF file only": (
        lambda folder: [without("config.json")(folder), renamed("model.gguf")(folder)],
        "gguf",
    ),
    "another spelling": (with_config(model_type="LLaMA"), "is called `llama`"),
    "an encoder": (with_config(model_type="bert"), "the architecture `bert`"),
    "an unknown architecture": (with_config(model_type="unheard_of"), "`unheard_of`"),
    "a config without sizes": (
        with_text("config.json", '{"model_type": "unheard_of"}'),
        "its hidden size is unknown",
    ),
    "a broken config": (with_text("config.json", "{"), "config.json"),
    "a pointer instead of the tokenizer": (with_text("tokenizer.json", POINTER), "Git LFS pointer"),
    "a pointer instead of the weights": (with_text("model.safetensors", POINTER), "LFS pointer"),
    "a broken tokenizer": (with_text("tokenizer.json", "{}"), "tokenizer.json"),
}
OPTIONS = {
    "a quantization that the backend does not have": (
        ("--quantize", "awq"),
        "`--quantize awq` reads checkpoints",
    ),
    "several devices": (("--num-shard", "2"), "`--num-shard 2`"),
    "sharding without devices": (("--sharded", "true"), "`num_shard` is not given"),
    "a rope factor below 1": (("--rope-factor", "0.5"), "`--rope-factor` must be >= 1"),
    "a dtype and a quantization": (
        ("--dtype", "float16", "--quantize", "awq"),
        "Only 1 can be set between",
    ),
    "limits that contradict each other": (
        ("--max-input-tokens", "9", "--max-total-tokens", "9"),
        "must be <",
    ),
    "a chat template that does not exist": (
        ("--tokenizer-config-path", "/nowhere.json"),
        "/nowhere.json",
    ),
}


@pytest.fixture
def folder(tmp_path, tiny_model):
    return shutil.copytree(tiny_model, tmp_path / "model")


def outcome(capsys, command, *words):
    """The exit code of a command and the problem that it reports, or an empty string."""
    code = main([command, *map(str, words)])
    printed = capsys.readouterr()
    lines = [*printed.out.splitlines(), *printed.err.splitlines()]
    marks = ("problem: ", "Error: ", "* `tgi serve` fails on this machine: ")
    found = (line.removeprefix(mark) for mark in marks for line in lines if line.startswith(mark))
    return code, next(found, "")


def refusal_of_serve(folder, *options):
    """The error line with which the server ends."""
    command = [sys.executable, "-m", "tgi", "serve", str(folder), *options]
    command += ["--hostname", "127.0.0.1", "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


def check_same_refusal(capsys, folder, options, part):
    reason = refusal_of_serve(folder, *BACKEND, *options)
    assert part in reason
    assert outcome(capsys, "doctor", folder, *BACKEND, *options) == (1, reason)
    if not any(option.startswith(("--max", "--sharded")) for option in options):
        assert outcome(capsys, "inspect", folder, *BACKEND, *options) == (1, reason)


@pytest.mark.parametrize("case", WHOLE)
def test_every_command_accepts_a_model_that_starts(capsys, folder, tmp_path, case):
    WHOLE[case](folder)
    assert outcome(capsys, "inspect", folder, *BACKEND) == (0, "")
    assert outcome(capsys, "doctor", folder, *BACKEND) == (0, "")
    with running_server(folder, BACKEND[1], tmp_path / "log"):
        pass


@pytest.mark.parametrize("case", BROKEN)
def test_every_command_refuses_a_model_with_the_reason_of_the_server(capsys, folder, case):
    change, part = BROKEN[case]
    change(folder)
    check_same_refusal(capsys, folder, (), part)


@pytest.mark.parametrize("case", OPTIONS)
def test_every_command_refuses_options_with_the_reason_of_the_server(capsys, folder, case):
    options, part = OPTIONS[case]
    check_same_refusal(capsys, folder, options, part)


@pytest.mark.parametrize("case", ["whole", *BROKEN])
def test_a_converted_command_names_the_reason_of_the_doctor(capsys, folder, case):
    change = WHOLE.get(case) or BROKEN[case][0]
    change(folder)
    _, reason = outcome(capsys, "doctor", folder)
    line = f"text-generation-launcher --model-id {shlex.quote(str(folder))}"
    assert outcome(capsys, "migrate", line) == (0, reason)
