"""Line budgets: a function fits on a screen, a file in a sitting. Totals are printed, not
judged.
"""

import ast
from collections import Counter

import pytest

from tests.core.house.sources import ROOT, python_files, source_files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400


def long_functions(source):
    """Return the names and lengths of the functions that exceed the limit."""
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = ((node.name, node.end_lineno - node.lineno + 1) for node in functions)
    return [(name, length) for name, length in lengths if length > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("folder", ["core/tgi", "backends", "benchmarks"])
def test_functions_and_files_keep_their_budget(folder):
    over = []
    for path in python_files(ROOT / folder):
        source = path.read_text(encoding="utf-8")
        num_lines = source.count("\n")
        if num_lines > MAX_FILE_LINES:
            over.append(f"{path.relative_to(ROOT)} has {num_lines} lines, at most {MAX_FILE_LINES}")
        over += [
            f"{path.relative_to(ROOT)}: {name} has {length} lines, at most {MAX_FUNCTION_LINES}"
            for name, length in long_functions(source)
        ]
    assert not over, "\n".join(over)


def test_a_long_function_exceeds_the_limit():
    source = (
        "async def short():\n    pass\n\n\nclass A:\n    def long(self):\n"
        + "        pass\n" * MAX_FUNCTION_LINES
    )
    assert long_functions(source) == [("long", MAX_FUNCTION_LINES + 1)]


def test_print_totals():
    totals = Counter()
    for path in source_files():
        totals["/".join(path.relative_to(ROOT).parts[:3])] += path.read_text(
            encoding="utf-8"
        ).count("\n")
    assert totals
    print()
    for place, num_lines in totals.most_common():
        print(f"{num_lines:6,}  {place}")
    print(f"{sum(totals.values()):6,}  in all")
