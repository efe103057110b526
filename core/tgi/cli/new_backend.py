"""Implements `tgi backends new NAME`, which creates a package with a working backend."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tgi.config import UsageError

__all__ = ["render_template", "run"]

_HELP = """Usage: tgi backends new NAME [FOLDER]

Create a package with a small working backend in FOLDER, as a starting point for your own backend.
FOLDER is tgi-backend-NAME by default. docs/writing-a-backend.md explains the package.

NAME consists of lower case letters, digits and single hyphens, for example my-chip."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX = ".template"


def run(arguments: Sequence[str]) -> int:
    """Create the package. Existing files are never overwritten. Returns the exit code."""
    if any(word in ("-h", "--help") for word in arguments):
        print(_HELP)
        return 0
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        raise UsageError(
            "error: the command requires a name, and optionally a folder.",
            "See `tgi backends new --help`.",
        )
    name = arguments[0]
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"error: `{name}` is not a valid name for a backend. Use lower case letters, digits and"
            " single hyphens, for example `my-chip`.",
            "See `tgi backends new --help`.",
        )
    folder = Path(arguments[1] if len(arguments) > 1 else f"tgi-backend-{name}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"error: the folder `{folder}` is not empty.",
            "Give another folder as the second argument.",
        )
    for path, text in render_template(name).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)
    print(f"\nNext: pip install -e {folder} && tgi conformance {name}")
    return 0


def render_template(name: str) -> Mapping[str, str]:
    """Return the contents of the files in the package of a backend with this name, by path."""
    module = f"tgi_backend_{name.replace('-', '_')}"
    title = "".join(part.capitalize() for part in name.split("-"))
    root = files("tgi.cli") / "backend_template"
    rendered = {}
    for path, file in _walk(root, ""):
        text = file.read_text(encoding="utf-8").replace("tgi_backend_example", module)
        text = text.replace("Example", title).replace("example", name)
        rendered[path.replace("package/", f"{module}/").removesuffix(_SUFFIX)] = text
    return rendered


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            found += _walk(item, f"{prefix}{item.name}/")
        elif item.name.endswith(_SUFFIX):
            found.append((f"{prefix}{item.name}", item))
    return found
