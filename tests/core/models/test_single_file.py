"""Single-file models in commands, in a running server, and in the repositories of a hub."""

import json
import os
import subprocess
import sys

import httpx
import pytest

from tests.core.cli.hub import Repository, running_hub
from tests.live_server import running_server
from tgi.plugins import BackendRegistry

COMMIT = "b" * 40
READERS = " or ".join(f"`{name}`" for name in BackendRegistry().readers("gguf"))
"""The installed backends that read GGUF files. The tests also run without such a backend."""

NOT_READ = (
    "it reads models in the format `safetensors`, not in `gguf`, which"
    f" {f'the installed backend {READERS} reads' if READERS else 'no installed backend reads'}"
)
SCRIPT = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from tgi.cli import main
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    print(json.dumps([code, out.getvalue().strip(), err.getvalue().strip()]))
"""
"""Runs several commands in one process, because importing the hub's client takes longer than they
do.
"""


def commands(home, *runs, reader=None, hub_url=""):
    """Run the commands. Returns the exit code, the standard output and the standard error of each.
    `reader` is a folder with the package of a backend that reads single files.
    """
    environment = {
        "PATH": "",
        "HOME": str(home),
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub_url or "http://127.0.0.1:9",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    paths = [os.environ.get("PYTHONPATH", ""), "" if reader is None else str(reader)]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    words = [[str(word) for word in run] for run in runs]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_commands_on_a_file_that_the_backend_does_not_read(tmp_path, single_file):
    inspect, doctor, text, serve = commands(
        tmp_path,
        ["inspect", single_file, "--backend", "null"],
        ["doctor", single_file, "--backend", "null", "--json"],
        ["doctor", single_file, "--backend", "null"],
        ["serve", single_file, "--backend", "null", "--port", "0"],
    )
    sentence = f"The backend `null` cannot be used: {NOT_READ}"
    assert inspect[:2] == [1, ""]
    assert inspect[2].startswith(f"Error: {sentence}")
    diagnosis = json.loads(doctor[1])
    assert doctor[0] == 1
    assert diagnosis["problem"].startswith(sentence)
    assert (diagnosis["model"]["format"], diagnosis["model"]["family"]) == ("gguf", None)
    null = next(facts for facts in diagnosis["backends"] if facts["name"] == "null")
    assert (null["support"], null["reasons"]) == ("no", [NOT_READ])
    assert text[0] == 1
    assert f"problem: {sentence}." in text[1]
    assert serve[0] == 1
    assert serve[2].splitlines()[-1] == f"Error: {sentence}."


def test_commands_on_a_file_that_a_backend_reads(tmp_path, single_file, installed_reader):
    inspect, text, doctor, other = commands(
        tmp_path,
        ["inspect", single_file, "--backend", "onefile", "--json"],
        ["inspect", single_file, "--backend", "onefile"],
        ["doctor", single_file, "--backend", "onefile", "--json"],
        ["doctor", single_file, "--backend", "null"],
        reader=installed_reader,
    )
    card = json.loads(inspect[1])
    assert (inspect[0], card["format"], card["family"], card["parts"]) == (0, "gguf", "llama", [])
    statuses = {status["backend"]: status for status in card["backends"]}
    assert statuses["onefile"]["status"] == "slow"
    assert statuses["null"]["status"] == "no"
    assert "not in `gguf`, which the installed backend" in statuses["null"]["reasons"][0]
    assert "`onefile`" in statuses["null"]["reasons"][0]
    assert text[0] == 0
    assert "weights as stored" not in text[1]
    diagnosis = json.loads(doctor[1])
    assert (doctor[0], diagnosis["chosen"], diagnosis["problem"]) == (0, "onefile", "")
    assert other[0] == 1
    assert "not in `gguf`, which the installed backend" in other[1]


def test_a_server_serves_a_single_file(
    tmp_path, single_file, tiny_model, installed_reader, monkeypatch
):
    """The response is the same as for a folder with the same weights."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(installed_reader), before])))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    body = {"inputs": "The quick", "parameters": {"max_new_tokens": 8, "details": True}}
    responses = []
    for model, backend in ((single_file, "onefile"), (tiny_model, "reference")):
        with running_server(model, backend, tmp_path / f"{backend}.log") as server:
            responses.append(httpx.post(f"{server.url}/generate", json=body, timeout=60).json())
    assert responses[0]["generated_text"] == responses[1]["generated_text"] != ""
    assert responses[0]["details"]["generated_tokens"] == 8


@pytest.fixture(scope="module")
def hub(single_file, tiny_model):
    content, config = single_file.read_bytes(), (tiny_model / "config.json").read_bytes()
    weights = (tiny_model / "model.safetensors").read_bytes()
    refs = {"main": COMMIT}
    files = {
        "ours/one": {"tiny.gguf": content, "README.md": b"x", "image.png": b"x"},
        "ours/many": {f"{name}.gguf": content for name in "abc"} | {"README.md": b"x"},
        "ours/both": {"tiny.gguf": content, "config.json": config, "model.safetensors": weights},
    }
    with running_hub({n: Repository(f, COMMIT, refs) for n, f in files.items()}) as running:
        yield running


def fetched(hub, repository):
    """Return the names of the files of `repository` that were requested."""
    mark = f"{repository}/resolve/{COMMIT}/"
    return {path.removeprefix(mark) for path in hub.asked if path.startswith(mark)}


def test_a_repository_of_a_format_that_the_backend_does_not_read_is_not_fetched(hub, tmp_path):
    hub.asked.clear()
    (serve,) = commands(
        tmp_path,
        ["serve", "ours/one", "--backend", "null", "--port", "0"],
        hub_url=hub.url,
    )
    remedy = (
        f"Choose the backend {READERS}, which reads `gguf`."
        if READERS
        else "No installed backend reads `gguf`: name a model in another format."
    )
    assert serve[0] == 1
    assert serve[2].splitlines()[-1] == (
        "Error: The hub model `ours/one` has weights in the format `gguf` and none in"
        f" `safetensors`. {remedy}"
    )
    assert not fetched(hub, "ours/one")


def test_only_the_files_that_the_backend_requires_are_fetched(hub, tmp_path, installed_reader):
    hub.asked.clear()
    one, several, named, missing, preferred, onefile, null = commands(
        tmp_path,
        ["download", "ours/one", "--backend", "onefile"],
        ["download", "ours/many"],
        ["download", "ours/many/b.gguf", "--backend", "onefile"],
        ["download", "ours/many/d.gguf"],
        ["download", "ours/both"],
        ["download", "ours/both", "--backend", "onefile"],
        ["serve", "ours/one", "--backend", "null", "--port", "0"],
        reader=installed_reader,
        hub_url=hub.url,
    )
    assert one[0] == 0
    assert one[1].endswith(f"/{COMMIT}/tiny.gguf")
    assert fetched(hub, "ours/one") == {"tiny.gguf", "README.md"}
    assert several[:2] == [1, ""]
    assert "contains 3 models in the format `gguf`: a.gguf, b.gguf, c.gguf. Name one" in several[2]
    assert (named[0], named[1].rpartition("/")[2]) == (0, "b.gguf")
    assert fetched(hub, "ours/many") == {"b.gguf", "README.md"}
    assert "The hub model `ours/many` has no file `d.gguf`" in missing[2]
    assert (preferred[0], preferred[1].rpartition("/")[2]) == (0, COMMIT)
    assert (onefile[0], onefile[1].rpartition("/")[2]) == (0, "tiny.gguf")
    assert "Choose the backend" in null[2]
    assert "`onefile`" in null[2]


def test_a_cached_model_needs_no_hub(hub, tmp_path):
    (first,) = commands(tmp_path, ["download", "ours/both"], hub_url=hub.url)
    (again,) = commands(tmp_path, ["download", "ours/both"])
    assert first[0] == 0
    assert again[:2] == first[:2]
