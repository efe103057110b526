"""The lists of backends in the repository name exactly the packages below `backends/`."""

import re
import shutil
import subprocess

import pytest

from tests.core.house.members import members_of, named_lists
from tests.core.house.sources import ROOT
from tgi import __version__

FAKE = """
[project]
name = "tgi-fake"
version = "4.0.0.dev1"
dependencies = ["tgi==4.0.0.dev1"]

[project.entry-points."tgi.backends"]
fake = "tgi_fake"
"""


def problems(root):
    return [named.problem for named in named_lists(root, __version__) if named.problem]


def test_every_list_names_the_members():
    assert members_of(ROOT)
    assert not problems(ROOT), "\n".join(problems(ROOT))


@pytest.fixture
def repository(tmp_path):
    """Return a copy of the repository's files that contain the lists."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for pattern in ("backends/*/pyproject.toml", "core/tgi/*/__init__.py", "docs/backends/*.json"):
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return tmp_path


def test_a_new_member_is_missing_in_every_list(repository):
    folder = repository / "backends" / "fake"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(FAKE)
    found = "\n".join(problems(repository))
    for place in (
        "uv.sources: add tgi-fake",
        "ruff.src: add backends/fake",
        "mypy_path: add backends/fake",
        "mypy.packages: add tgi_fake",
        "root_packages: add tgi_fake",
        "source_modules: add tgi_fake",
        "first layer: add tgi_fake",
        "extras for backends: add fake",
        f"requirements of the extras for backends: add tgi-fake=={__version__}",
        "scorecards in docs/backends: add fake",
        f"backends/fake/pyproject.toml, version: add {__version__}; remove 4.0.0.dev1",
        "backends/fake/pyproject.toml, requirements of this project: add tgi==4.0.0.dev0; remove",
    ):
        assert place in found, place
    assert len(found.splitlines()) == 12


def test_a_member_that_is_gone_and_a_new_subpackage(repository):
    shutil.rmtree(repository / "backends" / "tpu")
    new = repository / "core" / "tgi" / "new"
    new.mkdir()
    (new / "__init__.py").touch()
    found = "\n".join(problems(repository))
    assert "mypy.packages: remove tgi_tpu" in found
    assert "extras for backends: remove tpu" in found
    assert "forbidden_modules: add tgi.new" in found
    assert "layers: add new" in found


def test_the_makefile_finds_the_members():
    """`make dist` builds each of them."""
    done = subprocess.run(
        ["make", "-n", "dist"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (loop,) = re.findall(r"for member in (.*?);", done.stdout)
    assert loop.split() == [".", *(member.folder for member in members_of(ROOT))]
