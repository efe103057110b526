"""No module of the core or of a backend imports itself indirectly. All imports count: at the top of
a module, in a function, and for type checkers only.
"""

import ast

from tests.core.house.sources import BACKENDS, CORE, source_files


def module_name(path):
    """Return the name under which the file at `path` is imported."""
    top = CORE.parent if CORE in path.parents else BACKENDS / path.relative_to(BACKENDS).parts[0]
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source, package, modules):
    """Return the members of `modules` that `source`, a module of `package`, imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parents, node.module or ""] if node.level else [node.module])
            base = base.rstrip(".")
            submodules = {f"{base}.{alias.name}" for alias in node.names} & modules
            found.update(submodules)
            if len(submodules) < len(node.names):
                found.add(base)
    return found & modules


def import_graph():
    """Return the modules that each module imports."""
    files = {module_name(path): path for path in source_files()}
    graph = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        imported = imports_of(path.read_text(encoding="utf-8"), package, set(files))
        graph[name] = imported - {name}
    return graph


def cycles(graph):
    """Return the groups of modules that import each other, directly or indirectly."""
    graph = {name: set(imported) for name, imported in graph.items()}
    while True:  # remove modules that import none of the others, or are imported by none
        imported = set().union(*graph.values())
        outside = {name for name in graph if name not in imported or not graph[name]}
        if not outside:
            break
        graph = {name: graph[name] - outside for name in graph if name not in outside}
    groups, seen = [], set()
    for name in sorted(graph):
        if name not in seen:
            group = {name} | (reachable(graph, name) & reaching(graph, name))
            seen |= group
            groups += [sorted(group)] if len(group) > 1 else []
    return groups


def reachable(graph, start):
    """Return the modules that `start` imports, directly or indirectly."""
    found, pending = set(), [start]
    while pending:
        new = graph[pending.pop()] - found
        found |= new
        pending += new
    return found


def reaching(graph, target):
    """Return the modules that import `target`, directly or indirectly."""
    reverse = {name: set() for name in graph}
    for name, imported in graph.items():
        for other in imported:
            reverse[other].add(name)
    return reachable(reverse, target)


def test_no_modules_import_each_other():
    graph = import_graph()
    assert len(graph) > 300
    assert cycles(graph) == []


def test_a_seeded_cycle_is_seen():
    graph = import_graph()
    lazy = "def later():\n    from tgi.server.app import create_app\n    return create_app\n"
    graph["tgi.errors"] |= imports_of(lazy, "tgi", set(graph))
    [group] = cycles(graph)
    assert {"tgi.errors", "tgi.server.app"} <= set(group)


def test_imports_are_seen_wherever_they_are():
    modules = {"tgi.a", "tgi.b", "tgi.c.d", "tgi.c"}
    source = (
        "from typing import TYPE_CHECKING\n"
        "import tgi.a\n"
        "if TYPE_CHECKING:\n    from tgi import b\n"
        "def f():\n    from .c import d, e\n"
    )
    assert imports_of(source, "tgi", modules) == modules
    assert imports_of("from ..b import x", "tgi.c", modules) == {"tgi.b"}
    assert imports_of("from tgi.c import d", "tgi.x", modules) == {"tgi.c.d"}
