"""The wheels that `make dist` builds: their files and metadata, and a server installed from them in
a clean environment.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser

import httpx
import pytest

from tests.core.house.members import members_of
from tests.core.house.sources import CORE, ROOT
from tests.live_server import free_port, wait_ready
from tgi import __version__

MEMBERS = members_of(ROOT)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels of all workspace members, by distribution name."""
    folder, sources = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("sources") / "tgi"
    # Build from a copy, because the output of an earlier build in the checkout would be included
    # in the wheels.
    shutil.copytree(
        ROOT,
        sources,
        ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"),
    )
    for member in (".", *(member.folder for member in MEMBERS)):
        command = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--outdir",
            str(folder),
            str(sources / member),
        ]
        subprocess.run(command, check=True, capture_output=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.long
def test_every_member_becomes_a_wheel(wheels):
    assert sorted(wheels) == sorted(["tgi", *(member.package for member in MEMBERS)])
    assert {metadata_of(wheel)["Version"] for wheel in wheels.values()} == {"4.0.0.dev0"}
    assert {metadata_of(wheel)["License-Expression"] for wheel in wheels.values()} == {"Apache-2.0"}


@pytest.mark.long
def test_the_core_requires_no_framework_and_contains_every_file(wheels):
    required = [
        line
        for line in metadata_of(wheels["tgi"]).get_all("Requires-Dist")
        if "extra ==" not in line
    ]
    assert required
    assert not [
        line for line in required if line.startswith(("torch", "jax", "transformers", "tgi"))
    ]
    with zipfile.ZipFile(wheels["tgi"]) as archive:
        held = set(archive.namelist())
    assert [
        str(path)
        for path in CORE.rglob("*.py")
        if path.relative_to(CORE.parent).as_posix() not in held
    ] == []
    assert "tgi/py.typed" in held


@pytest.mark.long
def download_wheels(dist, folder):
    """Download the wheels of the package in `dist` and of all its requirements."""
    torch = subprocess.check_output(
        [sys.executable, "-c", "import torch; print(torch.__version__.split('+')[0])"], text=True
    )
    command = [sys.executable, "-m", "pip", "download", "-q", "-d", folder, "--find-links", dist]
    # Pin the exact version, because another project on the public index is named `tgi`.
    wanted = (f"tgi[cpu]=={__version__}", f"torch=={torch.strip()}")
    subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), *wanted], check=True)


def test_wheels_install_without_an_index_and_serve(wheels, tmp_path):
    """Third-party wheels are taken from the folder in TGI_WHEELHOUSE. If the variable is not set,
    they are downloaded first.
    """
    third_party = os.environ.get("TGI_WHEELHOUSE") or str(tmp_path / "wheelhouse")
    dist = str(wheels["tgi"].parent)
    if "TGI_WHEELHOUSE" not in os.environ:
        download_wheels(dist, third_party)
    venv.create(tmp_path / "clean", with_pip=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    install = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--find-links",
        dist,
        "--find-links",
        third_party,
        "tgi[cpu]",
    ]
    subprocess.run(install, check=True)
    port, log = free_port(), tmp_path / "server.log"
    command = [
        str(tmp_path / "clean" / "bin" / "tgi"),
        "serve",
        "--hostname",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process, log)
        response = httpx.post(
            f"{url}/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}}, timeout=60
        )
        assert response.status_code == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
