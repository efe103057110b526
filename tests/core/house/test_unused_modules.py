"""Every module of the core and of the backends is imported, so no old copy of a module remains."""

from tests.core.house.sources import ROOT, python_files, source_files
from tests.core.house.test_cycles import imports_of, module_name

# Commands and model families are imported by their names, which are computed.
IMPORTED_BY_NAME = ("tgi.cli.", "tgi.architectures.families.")


def is_program(path):
    """True if the file can be run, as with `python -m`."""
    return path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text("utf-8")


def entry_points():
    """Return the text of all package tables, which name the modules of the entry points."""
    tables = [ROOT / "pyproject.toml", *ROOT.glob("backends/*/pyproject.toml")]
    return "\n".join(table.read_text("utf-8") for table in tables)


def unused_modules(files, users, declared):
    """Return the modules of `files` (name to path) that no file of `users` imports and that
    `declared` does not contain.
    """
    imported, quoted = set(), ""
    for path in users:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = module_name(path) if path in files.values() else ".".join(parts)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        source = path.read_text("utf-8")
        imported |= imports_of(source, package, set(files)) - {name}
        quoted += "".join(line for line in source.splitlines() if "import_module" in line)
    return [
        name
        for name, path in files.items()
        if name not in imported
        and name not in declared
        and f'"{name}"' not in quoted
        and path.name != "__init__.py"
        and not name.startswith(IMPORTED_BY_NAME)
        and not is_program(path)
    ]


def all_files():
    files = {module_name(path): path for path in source_files()}
    folders = [ROOT / name for name in ("tests", "examples", "tools", "benchmarks")]
    return files, [*files.values(), *python_files(*folders)]


def test_every_module_is_imported():
    files, users = all_files()
    assert len(files) > 200
    assert unused_modules(files, users, entry_points()) == []


def test_a_module_without_imports_is_found():
    files, users = all_files()
    importers = ("adapter_step.py", "complete_step.py", "null_worker.py")
    without = [path for path in users if path.name not in importers]
    assert unused_modules(files, without, entry_points()) == ["tgi.worker.step_result"]
