"""Printed commands that run in a shell serve the model of the original command on its port."""

import contextlib
import os
import shutil
import subprocess
import sys

import httpx
import pytest

from tests.live_server import free_port, wait_ready
from tgi.cli.migration.readers.files import read_line
from tgi.cli.migration.translation import migrate

NAME = "ghcr.io/huggingface/text-generation-inference"
COMMIT = "b" * 40


def write_cache(folder, model):
    """Write the model `o/m` into a cache of the hub."""
    entry = folder / "models--o--m"
    shutil.copytree(model, entry / "snapshots" / COMMIT)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(COMMIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A folder with the cache of an old image, the cache of a new image, and a plain folder."""
    path = tmp_path_factory.mktemp("served")
    write_cache(path / "old", tiny_model)
    write_cache(path / "new" / "hub", tiny_model)
    shutil.copytree(tiny_model, path / "my models" / "tiny")
    program = path / "programs" / "tgi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tgi "$@"\n')
    program.chmod(0o755)
    return path


@contextlib.contextmanager
def running(script, folder, port):
    """Run a script in `folder` until its server is ready. Yields the URL of the server."""
    log = folder / "log"
    environment = {
        **os.environ,
        "PATH": f"{folder / 'programs'}:{os.environ['PATH']}",
        "BACKEND": "null",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "none"),
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["bash", "-c", f"{script} & trap 'kill %1; wait' TERM; wait"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (f"docker run -p $PORT_:80 -v $PWD/old:/data {NAME}:1.4 --model-id o/m", "o/m"),
        (f"docker run -p $PORT_:80 -v ./new/:/data {NAME}:2.3.0 --model-id o/m", "o/m"),
        (
            'docker run -p $PORT_:80 -e HF_HUB_CACHE=/d/hub -v "$(pwd)/new":/d'
            f" {NAME}:3.3.5 --model-id o/m",
            "o/m",
        ),
        (
            'docker run -p 127.0.0.1:$PORT_:80 -v "$(pwd)/my models":/models'
            f" {NAME}:3.3.5 --model-id /models/tiny",
            "my models/tiny",
        ),
        (
            "model=o/m\nvolume=$PWD/new\ndocker run -p $PORT_:80 -v $volume:/data"
            f" {NAME}:3.3.5 --model-id $model",
            "o/m",
        ),
    ],
)
def test_the_printed_command_serves_the_model(text, model, folder):
    port = free_port()
    script = migrate(read_line(text.replace("$PORT_", str(port)))).script
    with running(script, folder, port) as url:
        assert httpx.get(f"{url}/info").json()["model_id"].endswith(model)
