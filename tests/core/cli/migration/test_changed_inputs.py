"""An input with an error is converted or rejected with a sentence. It never ends in a traceback."""

import copy
import random

import pytest
import yaml

from tests.core.cli.migration.compose_cases import CASES as COMPOSE_CASES
from tests.core.cli.migration.docker_cases import CASES as DOCKER_CASES
from tests.core.cli.migration.file_cases import CASES as FILE_CASES
from tests.core.cli.migration.script_cases import CASES as SCRIPT_CASES
from tgi.cli.migration.readers.build_files import read_dockerfile, read_makefile, read_unit
from tgi.cli.migration.readers.files import read_lines
from tgi.cli.migration.readers.sagemaker_code import read_python
from tgi.cli.migration.readers.yaml_files import read_yaml
from tgi.cli.migration.translation import migrate
from tgi.config import UsageError
from tgi.plugins import BackendRegistry

VALUES = [None, 3, "x", True, [], {}, [1], {"a": 1}, ["a"], [{"a": 1}], 2.5, "$x", "${x", "", [[]]]
PIECES = ["'", '"', "\\", "$", "$(", "${", "`", "|", "&", ";", "<", ">", "(", ")", "{", "\n", "-"]
PIECES += [" ", "=", ":", ",", "--", "-e", "--gpus", "-v", "~", "#", "\0", "é", "\t", "!", "[", "]"]
READERS = {
    "Makefile": read_makefile,
    "Dockerfile": read_dockerfile,
    "serve.Dockerfile": read_dockerfile,
    "tgi.service": read_unit,
    "deploy.py": read_python,
}
TEXTS = [
    *((read_lines, case.text) for case in [*DOCKER_CASES, *SCRIPT_CASES]),
    *((READERS[case.file], case.text) for case in FILE_CASES if case.file in READERS),
]


@pytest.fixture(scope="module")
def registry():
    return BackendRegistry()


def convert(read, text, registry):
    """Convert a text. Returns the number of starts that were converted or rejected."""
    try:
        starts = read(text)
        for start in starts.values():
            if not isinstance(start, UsageError):
                migrate(start, registry)
    except UsageError as error:
        assert str(error).startswith("error: ")
        return 1
    return len(starts)


def positions(node, path=()):
    """Return the path of every member of a YAML document."""
    if path:
        yield path
    if isinstance(node, dict | list):
        members = node.items() if isinstance(node, dict) else enumerate(node)
        for key, member in members:
            yield from positions(member, (*path, key))


def documents(case):
    try:
        return list(yaml.safe_load_all(case.text))
    except yaml.YAMLError:
        return []


YAML_CASES = [
    case
    for case in [*COMPOSE_CASES, *FILE_CASES]
    if case.file.endswith(("yml", "yaml")) and documents(case)
]


@pytest.mark.parametrize("case", YAML_CASES, ids=str)
def test_every_member_of_a_file_may_have_another_type(case, registry):
    chosen = random.Random(case.name)
    original = documents(case)
    for at, document in enumerate(original):
        for path in positions(document):
            changed = copy.deepcopy(original)
            node = changed[at]
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = chosen.choice(VALUES)
            convert(read_yaml, yaml.safe_dump_all(changed), registry)


@pytest.mark.parametrize("seed", range(40))
def test_every_text_may_have_an_error(seed, registry):
    chosen = random.Random(seed)
    for read, text in chosen.sample(TEXTS, 20):
        at = chosen.randrange(len(text) + 1)
        end = min(len(text), at + chosen.choice([0, 0, 1, 5]))
        convert(read, text[:at] + chosen.choice(PIECES) + text[end:], registry)
