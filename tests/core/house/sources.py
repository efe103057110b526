"""The folders and files with the sources of the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
CORE = ROOT / "core" / "tgi"
BACKENDS = ROOT / "backends"


def python_files(*folders):
    """Return all Python files in the folders and their subfolders, sorted by path."""
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if "build" not in path.parts
    )


def source_files():
    """Return the Python files that are part of the installed packages."""
    return python_files(CORE, *(folder for folder in BACKENDS.glob("*/tgi_*") if folder.is_dir()))
