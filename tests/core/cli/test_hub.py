"""Hub ids with revision, token, cache and offline startup, against a local hub."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.core.cli.hub import Repository, running_hub
from tests.live_server import running_server

COMMIT = "a" * 40
TOKEN = "hf_of_the_test"
SECRET_FILES = ("pytorch_model.bin", "modeling_own.py")

SCRIPT = """
import io, json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from tgi.cli import main
for arguments, variables in json.loads(sys.argv[1]):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["download", *arguments])
    print(json.dumps([code, out.getvalue().strip(), err.getvalue().strip()]))
"""
"""Runs several downloads in one process, because importing the hub client takes longer than all
of the downloads.
"""


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def hub(tiny_model):
    files = files_of(tiny_model) | dict.fromkeys(SECRET_FILES, b"x")
    generic = json.loads(files["config.json"]) | {
        "model_type": "own",
        "auto_map": {"AutoModelForCausalLM": "modeling_own.Model"},
    }
    refs = {"main": COMMIT}
    repositories = {
        "ours/tiny": Repository(
            files, COMMIT, refs | {"refs/pr/3": COMMIT, "v1": COMMIT}, "text-generation"
        ),
        "ours/secret": Repository(files, COMMIT, refs, token=TOKEN),
        "ours/gated": Repository(files, COMMIT, refs, is_gated=True),
        "ours/pickled": Repository(
            {"config.json": files["config.json"], SECRET_FILES[0]: b"x"}, COMMIT, refs
        ),
        "ours/own": Repository(files | {"config.json": json.dumps(generic).encode()}, COMMIT, refs),
    }
    with running_hub(repositories) as running:
        yield running


def download(hub, home, *runs):
    """Run `tgi download` once for each pair (arguments, environment variables). Returns a list of
    [exit code, standard output, standard error].
    """
    environment = {
        "PATH": "",
        "HOME": str(home),
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(runs)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_downloads_and_rejected_downloads(hub, tmp_path):
    other = str(tmp_path / "other")
    results = download(
        hub,
        tmp_path,
        (["ours/tiny"], {}),
        (["ours/secret"], {"HF_HUB_OFFLINE": "1"}),
        (["ours/tiny"], {"HF_HUB_OFFLINE": "1"}),
        (["ours/tiny", "--revision", "refs/pr/3"], {}),
        (["ours/tiny", "--revision", COMMIT], {"HUGGINGFACE_HUB_CACHE": other}),
        (["ours/tiny", "--revision", "v9"], {}),
        (["ours/secret"], {}),
        (["ours/secret"], {"HF_TOKEN": "hf_wrong"}),
        (["ours/secret"], {"HF_TOKEN": TOKEN}),
        (["ours/gated"], {}),
        (["ours/nothing"], {}),
        (["ours/pickled"], {}),
    )
    (
        first,
        before,
        offline,
        pull,
        elsewhere,
        no_revision,
        no_token,
        wrong_token,
        token,
        gated,
        unknown,
        pickled,
    ) = results
    assert "not in the cache, and HF_HUB_OFFLINE is set" in one_line(before)
    folder = Path(first[1])
    assert (first[0], folder.name) == (0, COMMIT), first
    fetched = {path.name for path in folder.iterdir()}
    assert {"config.json", "tokenizer.json"} <= fetched
    assert any(name.endswith(".safetensors") for name in fetched)
    assert not fetched & {*SECRET_FILES}
    assert offline[:2] == pull[:2] == first[:2]
    assert elsewhere[1].startswith(other)
    assert "has no revision `v9`" in one_line(no_revision)
    assert "no hub model `ours/secret`" in one_line(no_token)
    assert "no hub model `ours/secret`" in one_line(wrong_token)
    assert (token[0], Path(token[1]).name) == (0, COMMIT)
    assert "gated" in one_line(gated)
    assert "no folder and no hub model `ours/nothing`" in one_line(unknown)
    assert "contains no weights in safetensors or gguf format" in one_line(pickled)
    assert not [path for path in hub.asked if path.endswith(SECRET_FILES)]


def one_line(result):
    code, out, err = result
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


def test_a_server_reports_commit_and_task(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with running_server("ours/tiny", "null", tmp_path / "log") as server:
        info = httpx.get(f"{server.url}/info").json()
    assert (info["model_id"], info["model_sha"], info["model_pipeline_tag"]) == (
        "ours/tiny",
        COMMIT,
        "text-generation",
    )


def serve(home, *arguments, **variables):
    command = [sys.executable, "-m", "tgi", "serve", *arguments, "--backend", "null", "--port", "0"]
    environment = {"PATH": "", "HOME": str(home), "HF_HOME": str(home), **variables}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_remote_code_requires_a_commit(hub, tmp_path):
    done = serve(tmp_path, "ours/own", "--trust-remote-code", HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    *_, line = done.stderr.strip().splitlines()
    assert line.startswith(
        "Error: `--trust-remote-code` runs the code of `ours/own`. It requires `--revision` with a"
        " commit"
    )
    assert f"--revision {COMMIT}" in line
    assert not [path for path in hub.asked if path.endswith(".py")]


def test_a_folder_can_override_the_hub_model(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("WEIGHTS_CACHE_OVERRIDE", str(tiny_model))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with running_server("ours/tiny", "null", tmp_path / "log") as server:
        assert httpx.get(f"{server.url}/info").json()["model_id"] == "ours/tiny"
    done = serve(tmp_path, "ours/tiny", WEIGHTS_CACHE_OVERRIDE=str(tmp_path))
    last_line = done.stderr.strip().splitlines()[-1]
    assert "`--weights-cache-override` contains no config.json" in last_line
