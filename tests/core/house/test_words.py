"""What the core may not say: names of hardware, the environment, swallowed errors, names for
nothing.
"""

import ast
import re

import pytest

from tests.core.house.sources import BACKENDS, CORE, ROOT, python_files, source_files

HARDWARE = re.compile(
    r"(?<![a-z])(cuda|rocm|hip|gaudi|habana|hpu|neuron|tpu|xpu|nvidia|nccl)(?![a-z])", re.IGNORECASE
)

# TGI's own option names stand in the option table, the routes pass them on under these names, and
# its images had variants.
HARDWARE_EXEMPT = {"config/options.py", "config/checks.py", "cli/migration/data.py"}
HARDWARE_ALLOWED_WORDS = ("options.cuda_memory_fraction", "tgi[cuda]", "1-nvidia-l4")

ENVIRONMENT_READER = "config/environment.py"
ENVIRONMENT_CHECKER = "testing/conformance/checks/packaging.py"  # sees that a probe leaves it alone

# The boundaries of a process, a plugin or a thread, where any fault has to become a sentence.
EXCEPT_EXCEPTION = {
    "engine/__main__.py": 1,
    "engine/core.py": 1,
    "plugins/boundary.py": 1,
    "plugins/registry.py": 4,
    "testing/conformance/run.py": 1,
    "text/chat_template_child.py": 1,
    "text/tokenizer.py": 1,  # the tokenizers library raises nothing narrower for a broken file
}

SHAPELESS = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}


def hardware_words(text):
    """Return the lines that name hardware."""
    for allowed in HARDWARE_ALLOWED_WORDS:
        text = text.replace(allowed, "")
    return [line.strip() for line in text.splitlines() if HARDWARE.search(line)]


def catches_everything(source):
    """Return the number of handlers that catch every exception and do not re-raise it."""
    return sum(
        1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler) and is_wide(node)
    )


def is_wide(handler):
    if any(
        isinstance(statement, ast.Raise) and statement.exc is None for statement in handler.body
    ):
        return False
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"} for name in caught
    )


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_names_no_hardware(path):
    if str(path.relative_to(CORE)) not in HARDWARE_EXEMPT:
        assert hardware_words(path.read_text(encoding="utf-8")) == []


def test_the_hardware_check_finds_a_name():
    assert hardware_words("if device == 'cuda:0':\n    pass\n") == ["if device == 'cuda:0':"]
    assert hardware_words("chip, ship, input, tpulse") == []


def test_one_file_reads_the_environment():
    readers = [
        str(path.relative_to(CORE))
        for path in python_files(CORE)
        if re.search(r"\benviron\b|\bgetenv\b", path.read_text(encoding="utf-8"))
    ]
    assert readers == [ENVIRONMENT_READER, ENVIRONMENT_CHECKER]


def test_only_boundaries_catch_everything():
    found = {}
    for path in python_files(CORE):
        number = catches_everything(path.read_text(encoding="utf-8"))
        if number:
            found[str(path.relative_to(CORE))] = number
    surplus = {
        name: number for name, number in found.items() if number > EXCEPT_EXCEPTION.get(name, 0)
    }
    assert not surplus, f"`except Exception` outside the process boundaries: {surplus}"


def test_the_handler_check_finds_wide_handlers():
    assert catches_everything("try:\n    f()\nexcept Exception:\n    pass\n") == 1
    assert (
        catches_everything("try:\n    f()\nexcept (ValueError, BaseException) as e:\n    pass\n")
        == 1
    )
    assert catches_everything("try:\n    f()\nexcept:\n    pass\n") == 1
    assert catches_everything("try:\n    f()\nexcept json.Error:\n    pass\n") == 0
    assert catches_everything("try:\n    f()\nexcept BaseException:\n    close()\n    raise\n") == 0


def test_no_file_has_a_generic_name():
    assert [str(path.relative_to(ROOT)) for path in source_files() if path.name in SHAPELESS] == []


def test_nothing_is_unpickled_and_no_process_is_forked():
    forbidden = re.compile(
        r"^\s*(import|from) (pickle|multiprocessing|marshal|shelve)\b", re.MULTILINE
    )
    assert [
        str(path.relative_to(ROOT))
        for path in python_files(CORE, BACKENDS)
        if forbidden.search(path.read_text(encoding="utf-8"))
    ] == []
