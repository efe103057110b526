"""ARCHITECTURE.md names every file of the core and every folder of backends/; and nothing that is
gone.
"""

import re

from tests.core.house.sources import BACKENDS, CORE, ROOT

MAP = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_file_of_the_core_is_on_the_map():
    missing = []
    for path in sorted(CORE.rglob("*.py")):
        place = path.relative_to(CORE)
        # An __init__.py is its folder's door; the folder stands for it.
        name = (
            f"{place.parent}/" if place.name == "__init__.py" and place.parent.parts else place.name
        )
        if f"`{name}`" not in section_of(place):
            missing.append(str(place))
    assert not missing, f"ARCHITECTURE.md does not name: {', '.join(missing)}"


def section_of(place):
    """The part of the map that speaks of a file's folder: the line that starts with the folder, up
    to the next folder.
    """
    if len(place.parts) == 1:
        return MAP.partition("### Beside the rooms")[2]
    folder = place.parts[0]
    found = re.search(rf"^### `{folder}/`.*?(?=^##)", MAP + "\n##", re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def test_every_backend_is_on_the_map():
    folders = [
        folder.name
        for folder in sorted(BACKENDS.iterdir())
        if (folder / "pyproject.toml").is_file()
    ]
    assert folders
    assert [name for name in folders if f"`backends/{name}/`" not in MAP] == []


def test_nothing_on_the_map_is_gone():
    folders = re.findall(r"^### `(\w+)/`", MAP, re.MULTILINE)
    assert [name for name in folders if not (CORE / name).is_dir()] == []
    for folder in folders:
        section = section_of(CORE.joinpath(folder, "x").relative_to(CORE))
        files = re.findall(r"^\* `([\w/]+\.py)`", section, re.MULTILINE)
        assert [name for name in files if not (CORE / folder / name).is_file()] == []
