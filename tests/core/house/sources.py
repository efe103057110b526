"""Where the sources of the repository are."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
CORE = ROOT / "core" / "tgi"
BACKENDS = ROOT / "backends"


def python_files(*folders):
    """Every Python file below the folders, sorted."""
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if "build" not in path.parts
    )


def source_files():
    """The Python files that are installed."""
    return python_files(CORE, *(folder for folder in BACKENDS.glob("*/tgi_*") if folder.is_dir()))
