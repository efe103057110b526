"""The folders and files with the sources of the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
CORE = ROOT / "core" / "tgi"
BACKENDS = ROOT / "backends"

# Folders that tools write, at any depth.
GENERATED = {"build", "dist"}


def files(pattern, *folders):
    """Return the files in the folders and their subfolders that match, sorted by path. Hidden and
    generated folders are left out.
    """
    return sorted(
        path
        for folder in folders
        for path in folder.rglob(pattern)
        if not any(
            part in GENERATED or part.startswith(".") or part.endswith(".egg-info")
            for part in path.relative_to(ROOT).parts
        )
    )


def python_files(*folders):
    """Return all Python files in the folders and their subfolders, sorted by path."""
    return files("*.py", *folders)


def source_files():
    """Return the Python files that are part of the installed packages."""
    return python_files(CORE, *(folder for folder in BACKENDS.glob("*/tgi_*") if folder.is_dir()))
