"""Fixtures: a single-file model, and installed backends that can or cannot read it."""

import shutil
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

from tgi.plugins import BackendRegistry
from tgi.plugins.hookspecs import ENTRY_POINT_GROUP

NULL = next(iter(metadata.entry_points(group=ENTRY_POINT_GROUP, name="null")))
ENTRY_POINT = metadata.EntryPoint("onefile", "tests.core.models.onefile", ENTRY_POINT_GROUP)


@pytest.fixture(scope="session")
def single_file(tmp_path_factory, tiny_model):
    """The tiny model as one file, which is the only file in its folder."""
    path = tmp_path_factory.mktemp("single") / "tiny.gguf"
    with ZipFile(path, "w") as archive:
        for file in sorted(tiny_model.iterdir()):
            archive.write(file, file.name)
    return path


@pytest.fixture
def without_reader():
    """The backend `null`, which reads no single files."""
    return BackendRegistry([NULL])


@pytest.fixture
def with_reader():
    """The backends `null` and `onefile`."""
    return BackendRegistry([NULL, ENTRY_POINT])


@pytest.fixture(scope="session")
def installed_reader(tmp_path_factory):
    """A folder with the package of `onefile`. It is installed if the folder is in PYTHONPATH."""
    folder = tmp_path_factory.mktemp("onefile")
    shutil.copy(Path(__file__).with_name("onefile.py"), folder / "tgi_onefile.py")
    facts = folder / "tgi_onefile-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tgi-onefile\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nonefile = tgi_onefile\n")
    return folder
