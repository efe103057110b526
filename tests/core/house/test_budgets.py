"""The limits on the size of functions, files, folders and lines. They hold in the whole repository:
packages, tests, tools, benchmarks and examples. Totals are printed and not limited.
"""

import ast
import re
from collections import Counter

from tests.core.house.sources import ROOT, files, python_files, source_files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_FOLDER_FILES = 20
MAX_COLUMNS = 100

# A folder of independent entries, one model family per file.
FOLDERS_WITHOUT_LIMIT = {"core/tgi/architectures/families"}

# The results of finished runs are not edited.
RESULTS = "benchmarks/results/"

CODE = ("*.py", "*.cpp", "*.h")
TABLE_OR_QUOTE = re.compile(r"^\s*[|>]")
# An instruction to a tool has to follow the code on the same line.
PRAGMA = re.compile(r"\s*# (noqa|type: ignore|fmt: ).*$")
# A link cannot be wrapped, and neither can a word that is longer than the line.
UNBREAKABLE = re.compile(r"\]\([^)]*$|\]\(\S+\)|https?://|^\s*\S+$")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def long_functions(source):
    """Return the names and lengths of the functions that exceed the limit."""
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = ((node.name, node.end_lineno - node.lineno + 1) for node in functions)
    return [(name, length) for name, length in lengths if length > MAX_FUNCTION_LINES]


def long_prose_lines(text):
    """Return the numbers of the lines of a Markdown text that exceed the limit. Tables, quotes,
    code blocks and lines with a link may be longer.
    """
    found, in_code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        is_prose = not in_code and not TABLE_OR_QUOTE.match(line) and not UNBREAKABLE.search(line)
        if is_prose and len(line) > MAX_COLUMNS:
            found.append(number)
    return found


def test_no_function_is_too_long():
    over = [
        f"{name_of(path)}: {name} has {length} lines, at most {MAX_FUNCTION_LINES}"
        for path in python_files(ROOT)
        for name, length in long_functions(path.read_text(encoding="utf-8"))
    ]
    assert not over, "\n".join(over)


def test_no_file_is_too_long():
    lengths = (
        (path, path.read_text(encoding="utf-8").count("\n"))
        for pattern in CODE
        for path in files(pattern, ROOT)
    )
    over = [
        f"{name_of(path)} has {length} lines, at most {MAX_FILE_LINES}"
        for path, length in lengths
        if length > MAX_FILE_LINES
    ]
    assert not over, "\n".join(over)


def test_no_folder_has_too_many_files():
    counts = Counter(name_of(path.parent) for path in python_files(ROOT))
    over = {folder for folder, count in counts.items() if count > MAX_FOLDER_FILES}
    assert over == FOLDERS_WITHOUT_LIMIT, f"more than {MAX_FOLDER_FILES} Python files"


def test_no_line_of_code_is_too_long():
    over = [
        f"{name_of(path)}:{number}"
        for pattern in CODE
        for path in files(pattern, ROOT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(PRAGMA.sub("", line)) > MAX_COLUMNS
    ]
    assert not over, f"lines over {MAX_COLUMNS} columns: {over}"


def test_no_line_of_prose_is_too_long():
    over = [
        f"{name_of(path)}:{number}"
        for path in files("*.md", ROOT)
        if not name_of(path).startswith(RESULTS)
        for number in long_prose_lines(path.read_text(encoding="utf-8"))
    ]
    assert not over, f"lines over {MAX_COLUMNS} columns: {over}"


def test_a_long_function_exceeds_the_limit():
    source = (
        "async def short():\n    pass\n\n\nclass A:\n    def long(self):\n"
        + "        pass\n" * MAX_FUNCTION_LINES
    )
    assert long_functions(source) == [("long", MAX_FUNCTION_LINES + 1)]


def test_a_long_line_of_prose_exceeds_the_limit():
    long = "word " * 30
    assert long_prose_lines(f"{long}\n| {long} |\n```\n{long}\n```\n{long}") == [1, 6]
    assert long_prose_lines(f"{long} [a page](docs/page.md)\n{'w' * 120}") == []


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
