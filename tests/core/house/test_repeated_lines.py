"""No six consecutive lines are the same in two workers: what they share is in `tgi.worker`."""

import ast
import itertools

from tests.core.house.sources import BACKENDS, CORE, python_files

NUM_LINES = 6
WORKERS = {
    "torch": python_files(BACKENDS / "torch" / "tgi_torch"),
    "tpu": python_files(BACKENDS / "tpu" / "tgi_tpu"),
    "adapter": sorted((CORE / "worker").glob("adapter*.py")),
    "complete": sorted(
        path
        for pattern in ("complete*.py", "late*.py")
        for path in (CORE / "testing" / "doubles").glob(pattern)
    ),
}


def code_lines(source):
    """The lines of a file as (number, stripped text), without blank lines and imports."""
    imported = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, node.end_lineno + 1)
    }
    return [
        (number, line.strip())
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and number not in imported
    ]


def windows(name, source):
    """`NUM_LINES` consecutive lines → the place of the first one."""
    lines = code_lines(source)
    return {
        tuple(text for _, text in lines[first : first + NUM_LINES]): f"{name}:{lines[first][0]}"
        for first in range(len(lines) - NUM_LINES + 1)
    }


def repeated(workers):
    """The places of repeated lines in two of the workers, each of which is {file: source}."""
    found = {
        worker: {
            text: place
            for name, source in sources.items()
            for text, place in windows(name, source).items()
        }
        for worker, sources in workers.items()
    }
    return [
        f"{places[text]} = {others[text]}"
        for places, others in itertools.combinations(found.values(), 2)
        for text in places.keys() & others.keys()
    ]


def test_no_two_workers_have_six_equal_lines():
    sources = {
        worker: {path.name: path.read_text(encoding="utf-8") for path in paths}
        for worker, paths in WORKERS.items()
    }
    assert all(sources.values())
    assert sorted(repeated(sources)) == []


def test_equal_lines_are_found():
    body = "\n".join(f"    step_{i} = prepare({i})" for i in range(NUM_LINES))
    one = f"import numpy\n\ndef run():\n{body}\n"
    other = f"def start():\n    import jax\n{body.replace(chr(10), chr(10) * 2)}\n"
    workers = {"torch": {"a.py": one}, "tpu": {"b.py": other}}
    assert repeated(workers) == ["a.py:4 = b.py:3"]
    shorter = other.replace("step_2 = prepare(2)", "step_2 = prepare(3)")
    assert repeated(workers | {"tpu": {"b.py": shorter}}) == []
    assert repeated({"torch": {"a.py": one, "c.py": other}, "tpu": {}}) == []
