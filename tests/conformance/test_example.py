"""The example backend, a package outside the core, passes the conformance suite and serves.

The commands of the tutorial are executed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.core.house.sources import ROOT
from tests.live_server import running_server
from tgi.cli.new_backend import render_template
from tgi.testing.tiny_models import write_tiny_model

EXAMPLE = ROOT / "examples" / "tgi-backend-example"
TUTORIAL = ROOT / "docs" / "writing-a-backend.md"
MAX_LINES = 300


def install(source, site):
    """Install a package into a folder, without changing the environment."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--target", str(site), str(source)], check=True)


def python_path(site):
    """The search path with the installed example before the modules under test."""
    return os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))


def environment(site):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PYTHONPATH": python_path(site),
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A copy of the example, installed: (source, site)."""
    folder = tmp_path_factory.mktemp("example")
    source = folder / "source"
    shutil.copytree(
        EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    install(source, folder / "site")
    return source, folder / "site"


def test_the_example_is_the_template():
    rendered = dict(render_template("example"))
    for path, text in rendered.items():
        assert (EXAMPLE / path).read_text(encoding="utf-8") == text, (
            f"{path} differs from its template"
        )
    files = {
        str(path.relative_to(EXAMPLE))
        for path in EXAMPLE.rglob("*")
        if path.suffix in {".py", ".toml", ".md"}
    }
    assert files == set(rendered)


def test_the_example_is_small():
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in EXAMPLE.rglob("*.py"))
    assert lines < MAX_LINES


def test_the_example_passes_the_suite(example, tmp_path):
    source, site = example
    card = tmp_path / "card.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        "--tgi-backend",
        "example",
    ]
    done = subprocess.run(
        [*command, "--tgi-json", str(card)],
        cwd=source,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert (
        "example (tgi-backend-example 0.1.0, interface 2.0): conformance level robust;"
        in done.stdout
    )
    results = {row["id"]: row["status"] for row in json.loads(card.read_text())["results"]}
    assert {id_ for id_, status in results.items() if status == "not applicable"} == {
        *(
            "C-13",
            "C-13b",
            "C-14a",
            "C-14b",
            *("C-28c", "C-28d", "C-28e"),
            "C-29",
            "C-36a",
            "C-36b",
            "C-36d",
            "C-37",
            "C-42b",
            "C-50c",
            "C-50d",
            "C-50e",
            "C-50f",
        ),
        *(f"C-58{letter}" for letter in "abcd"),
        *(f"C-59{letter}" for letter in "acdefghijkl"),
    }
    committed = json.loads(
        (ROOT / "docs" / "backends" / "example.json").read_text(encoding="utf-8")
    )
    assert committed == json.loads(card.read_text()), (
        "run: tgi conformance example --json docs/backends/example.json"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_example_serves_checkpoints_of_every_dtype(dtype, example, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", python_path(example[1]))
    model = tmp_path / "model"
    write_tiny_model(model, dtype=dtype)
    with running_server(model, "example", tmp_path / "server.log") as server:
        response = httpx.post(
            f"{server.url}/generate",
            json={"inputs": "The quick", "parameters": {"max_new_tokens": 5}},
        )
        info = httpx.get(f"{server.url}/info/backend").json()
    assert response.status_code == 200
    assert response.json()["generated_text"]
    assert info["backend"] == "example"


@pytest.mark.parametrize("name", ["x", "my-chip2"])
def test_a_new_backend_carries_its_name(name):
    rendered = render_template(name)
    assert not [path for path, text in rendered.items() if "example" in (path + text).lower()]
    assert f'{name} = "tgi_backend_{name.replace("-", "_")}"' in rendered["pyproject.toml"]
    for path, text in rendered.items():
        if path.endswith(".py"):
            compile(text, path, "exec")


@pytest.mark.parametrize("arguments", [["My_Chip"], ["a--b"], [], ["--json"], ["a", "b", "c"]])
def test_a_bad_name_is_rejected(arguments, tmp_path):
    command = [sys.executable, "-m", "tgi", "backends", "new", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "there.txt").write_text("mine")
    command = [sys.executable, "-m", "tgi", "backends", "new", "a", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.txt"]


def blocks(kind):
    return re.findall(
        rf"^```{kind}\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_code_in_the_tutorial_is_that_of_the_package():
    source = "\n".join(render_template("my-chip").values())
    assert blocks("python")
    assert [block for block in blocks("python") if block not in source] == []


def test_the_commands_of_the_tutorial(tmp_path):
    site, outputs = tmp_path / "site", {}
    for line in "".join(blocks("sh")).splitlines():
        match shlex.split(line):
            case ["pip", "install", "-e", folder]:
                install(tmp_path / folder, site)
            case command:
                done = subprocess.run(
                    command,
                    cwd=tmp_path,
                    env=environment(site),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
                outputs[line] = done.stdout
    assert re.search(r"my-chip +tgi-backend-my-chip .* usable", outputs["tgi backends"])
    assert "conformance level robust" in outputs["tgi conformance my-chip"]
