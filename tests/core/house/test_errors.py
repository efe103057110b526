"""All exception classes form one tree. The drawing of the tree in `tgi/errors.py` is complete."""

import ast
import re

from tests.core.house.sources import CORE, source_files

ROOT_ERROR = "TgiError"

# Exceptions that never reach a user: outcomes of conformance checks, and the control flow inside
# the JSON reader and inside the HTTP protocol.
PRIVATE = {
    "BrokenRuleError": "AssertionError",
    "CheckFailedError": "AssertionError",
    "JsonError": "Exception",
    "NotApplicableError": "Exception",
    "_RejectedError": "Exception",
}

DRAWN = re.compile(r"^((?:│   |    )*)[├└]── (\w+) +(?:(\d{3}) `([^`]+)`)?")


def exception_classes(sources):
    """Return the exception classes, by name, with their base and class attributes."""
    classes = {
        node.name: node
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.bases
    }
    found = {}
    for name, node in classes.items():
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        is_exception = any(re.search(r"(Error|Exception|Exit|Interrupt)$", base) for base in bases)
        if is_exception:
            found[name] = (bases[0], attributes_of(node))
    return found


def attributes_of(node):
    """Return the constants that a class body assigns, by name."""
    return {
        statement.targets[0].id: statement.value.value
        for statement in node.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    }


def drawn_tree(text):
    """Return the classes of a drawing, by name, with their base class and their response."""
    path, tree = [ROOT_ERROR], {}
    for line in text.splitlines():
        found = DRAWN.match(line)
        if found:
            indent, name, status, error_type = found.groups()
            depth = len(indent) // 4 + 1
            path[depth:] = [name]
            tree[name] = (path[depth - 1], (status, error_type))
    return tree


def sources():
    return [path.read_text(encoding="utf-8") for path in source_files()]


def test_every_error_is_in_the_tree():
    classes = exception_classes(sources())
    assert classes.pop(ROOT_ERROR)[0] == "Exception"
    outside = {
        name: base
        for name, (base, _) in classes.items()
        if base not in classes and base != ROOT_ERROR
    }
    assert outside == PRIVATE


def test_the_drawing_shows_every_error():
    classes = exception_classes(sources())
    bases = {
        name: base
        for name, (base, _) in classes.items()
        if name not in PRIVATE and name != ROOT_ERROR
    }
    drawing = drawn_tree(ast.get_docstring(ast.parse((CORE / "errors.py").read_text())))
    assert {name: base for name, (base, _) in drawing.items()} == bases


def test_the_drawing_shows_statuses_and_types():
    classes = exception_classes(sources())
    drawing = drawn_tree(ast.get_docstring(ast.parse((CORE / "errors.py").read_text())))
    expected = {
        name: (str(attributes["status"]), attributes["error_type"])
        for name, (base, attributes) in classes.items()
        if base == "RequestError"
    }
    assert {n: r for n, (base, r) in drawing.items() if base == "RequestError"} == expected


def test_an_error_outside_the_tree_is_found():
    source = "class LostError(ValueError):\n    pass\n\n\nclass Plain(dict):\n    pass\n"
    assert exception_classes([source]) == {"LostError": ("ValueError", {})}
    assert drawn_tree("TgiError\n├── AError   a\n│   └── BError   404 `b`\n└── CError   c") == {
        "AError": ("TgiError", (None, None)),
        "BError": ("AError", ("404", "b")),
        "CError": ("TgiError", (None, None)),
    }
