"""Rules for the code of the core and the backends: where hardware may be named, where the
environment may be read, and where all exceptions may be caught. The lists of permitted places are
compared by equality, so they cannot become stale.
"""

import ast
import re

import pytest

from tests.core.house.sources import BACKENDS, CORE, ROOT, files, python_files, source_files

HARDWARE = re.compile(
    r"(?<![a-z])(cuda|rocm|hip|gaudi|habana|hpu|neuron|tpu|xpu|nvidia|nccl)(?![a-z])", re.IGNORECASE
)

# The option table has TGI's option names, and the migration data the names of TGI's images.
HARDWARE_FILES = {"config/options.py", "config/checks.py", "cli/migration/data.py"}
# The name of a TGI option, and a value in TGI's example of `/info`.
HARDWARE_PHRASES = ("options.cuda_memory_fraction", "1-nvidia-l4")

ENVIRONMENT_READERS = [
    # The settings of the thread library.
    "backends/cpu/tgi_cpu/backend.py",
    "backends/cpu/tgi_cpu/machine.py",
    "core/tgi/config/environment.py",
    # A check that a backend leaves the environment unchanged.
    "core/tgi/testing/conformance/checks/packaging.py",
]

# The boundaries to a process, a plugin and a foreign file, where any error becomes one sentence.
EXCEPT_EXCEPTION = {
    "backends/torch/tgi_torch/weights/pickled_weights.py": 1,
    "core/tgi/engine/__main__.py": 1,
    "core/tgi/grammar/lark.py": 1,
    "core/tgi/grammar/pool.py": 1,
    "core/tgi/plugins/boundary.py": 1,
    "core/tgi/testing/conformance/in_process.py": 1,
    "core/tgi/text/chat_template_child.py": 1,
    "core/tgi/text/tokenizer.py": 1,
}
MAX_EXCEPT_EXCEPTION = 8

GENERIC_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}


def hardware_words(text, allowed=()):
    """Return the hardware names in a text, in lower case, without those in `allowed`."""
    for phrase in HARDWARE_PHRASES:
        text = text.replace(phrase, "")
    return {word.lower() for word in HARDWARE.findall(text)} - set(allowed)


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


def test_the_core_names_no_hardware():
    found = {
        path.relative_to(CORE).as_posix()
        for path in python_files(CORE)
        if hardware_words(path.read_text(encoding="utf-8"))
    }
    assert found == HARDWARE_FILES


@pytest.mark.parametrize("phrase", HARDWARE_PHRASES)
def test_every_allowed_phrase_is_in_use(phrase):
    assert any(phrase in path.read_text(encoding="utf-8") for path in python_files(CORE))


# The names of Triton's compiler targets.
NAMES_OF_TARGETS = {"triton": {"cuda", "hip"}}


def test_a_backend_names_its_own_hardware_only():
    found = {
        path.relative_to(BACKENDS).as_posix(): words
        for pattern in ("*.py", "*.cpp", "*.h")
        for path in files(pattern, BACKENDS)
        for folder in path.relative_to(BACKENDS).parts[:1]
        if (
            words := hardware_words(
                path.read_text(encoding="utf-8"),
                allowed={folder, *NAMES_OF_TARGETS.get(folder, ())},
            )
        )
    }
    assert not found


def test_the_hardware_check_finds_a_name():
    assert hardware_words("if device == 'cuda:0':\n    pass\n") == {"cuda"}
    assert hardware_words("TPU and XPU", allowed={"tpu"}) == {"xpu"}
    assert hardware_words("chip, ship, input, tpulse") == set()


def test_few_files_read_the_environment():
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in source_files()
        if re.search(r"\benviron\b|\bgetenv\b", path.read_text(encoding="utf-8"))
    ]
    assert sorted(readers) == ENVIRONMENT_READERS


def test_only_boundaries_catch_everything():
    numbers = {
        path.relative_to(ROOT).as_posix(): catches_everything(path.read_text(encoding="utf-8"))
        for path in source_files()
    }
    assert {name: number for name, number in numbers.items() if number} == EXCEPT_EXCEPTION
    assert sum(EXCEPT_EXCEPTION.values()) <= MAX_EXCEPT_EXCEPTION


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
    named = {path.relative_to(ROOT).as_posix() for path in python_files(ROOT)}
    assert {name for name in named if name.rpartition("/")[2] in GENERIC_NAMES} == set()


def test_nothing_is_unpickled_and_no_process_is_forked():
    forbidden = re.compile(
        r"^\s*(import|from) (pickle|multiprocessing|marshal|shelve)\b", re.MULTILINE
    )
    assert [
        str(path.relative_to(ROOT))
        for path in python_files(CORE, BACKENDS)
        if forbidden.search(path.read_text(encoding="utf-8"))
    ] == []
