"""The printed command has the effect of the original one in a real shell.

The original text runs with a `docker` and a launcher that only record their arguments. The shell
has then replaced every variable, so that the recorded command contains only literal words. The
printed command and the conversion of the recorded command must start `tgi` with the same options
and the same environment.
"""

import re

import pytest

from tests.core.cli.migration.cases import IMAGE
from tests.core.cli.migration.compose_cases import CASES as COMPOSE_CASES
from tests.core.cli.migration.docker_cases import CASES as DOCKER_CASES
from tests.core.cli.migration.file_cases import CASES as FILE_CASES
from tests.core.cli.migration.script_cases import CASES as SCRIPT_CASES
from tests.core.cli.migration.shell_runs import run_script
from tgi.cli.migration.readers.files import read_line
from tgi.cli.migration.translation import migrate
from tgi.config import OPTIONS, parse_arguments

VALUES = {
    "model": "o/m",
    "m": "o/m",
    "M": "o/n",
    "MODEL": "o/m",
    "MODEL_ID": "o/m",
    "HF_TOKEN": "secret",
    "token": "abc",
    "num_shard": "1",
    "n": "10",
    "t": "99",
    "q": "eetq",
    "f": "2.5",
    "total": "77",
    "trust": "true",
    "split": "false",
    "port": "8123",
    "service_port": "8123",
    "volume": "/srv/v",
    "image": "registry.example/text-generation-inference",
    "version": "3.0",
    "R": "main",
    "D": "float16",
    "gpu": "1",
    "PORT": "8124",
}
# These texts have programs that are not recorded, several starts, or parts that a shell cannot run.
UNRECORDED = re.compile(
    r"srun|apptainer|singularity|gcloud|sudo|serve\(\)|1081:80|<your|^\$ |\$\(PWD\)|\r"
)
CASES = [
    case
    for case in [*DOCKER_CASES, *SCRIPT_CASES]
    if case.script is not None and not UNRECORDED.search(case.text)
]
OPTION_VARIABLES = {row.environment for row in OPTIONS}


def migrated(text):
    return migrate(read_line(text))


def commands_of(case):
    """Return the printed commands of a case, each with its assignments."""
    blocks, lines = [], []
    for line in (case.script or "").splitlines():
        lines.append(line)
        if "tgi serve" in line:
            blocks.append("\n".join(lines))
            lines = []
    return blocks


def effect(recorded):
    """Return the options of the server, and the other variables of its environment."""
    assert recorded is not None
    assert recorded.arguments[:2] == ("tgi", "serve")
    own = {
        name: value
        for name, value in recorded.environment.items()
        if VALUES.get(name) != value and not name.islower() and name not in ("M", "ARGS", "NAME")
    }
    options = {n: v for n, v in own.items() if n in OPTION_VARIABLES}
    others = {n: v for n, v in own.items() if n not in OPTION_VARIABLES}
    return parse_arguments(recorded.arguments[2:], options).options, others


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_shell_starts_the_same_server(case, tmp_path):
    (tmp_path / "t").write_text("from-a-file")
    arguments = ("first", "second", "5")
    original = run_script(f"{case.text}\nwait", tmp_path, VALUES, arguments)
    assert original is not None
    literal = migrated(original.as_command(VALUES))
    expected = run_script(literal.script, tmp_path, VALUES, arguments)
    printed = run_script(migrated(case.text).script, tmp_path, VALUES, arguments)
    assert effect(printed) == effect(expected)


ALL_CASES = [*DOCKER_CASES, *SCRIPT_CASES, *COMPOSE_CASES, *FILE_CASES]
COMMANDS = [
    pytest.param(script, id=f"{case.name}-{at}")
    for case in ALL_CASES
    for at, script in enumerate(commands_of(case))
]


@pytest.mark.parametrize("script", COMMANDS)
def test_every_printed_command_starts_a_server(script, tmp_path):
    """The shell accepts the command, and `tgi serve` accepts its arguments."""
    (tmp_path / "t").write_text("from-a-file")
    names = re.findall(r"\$\{?([A-Za-z]\w*)", script)
    values = dict.fromkeys(names, "7") | VALUES
    arguments = ("--json-output",) if '"$@"' in script else ("first", "second", "5")
    recorded = run_script(script, tmp_path, values, arguments)
    options, _ = effect(recorded)
    assert options.model_id or script == "tgi serve"


# Each word is an argument of `--api-key`.
WORDS = [
    "plain",
    "'single quotes'",
    '"double quotes"',
    "'$literal'",
    '"$model"',
    '"${model}x"',
    "${model}_x$t",
    "$model$t",
    '"a $model b"',
    "a\\ b",
    "$model\\ b",
    "'a'\"b c\"\\ d",
    '"it\'s"',
    "'say \"hi\"'",
    '"\\$model \\"q\\" \\\\ \\`"',
    "$'tab\\tnewline\\n'",
    "$'\\x41\\101\\'\\q'",
    '"!bang $model"',
    "'*'",
    "\\~",
    "~/x",
    "x~",
    "'~'",
    "${unset:-'d e'}",
    '"${unset:-d e}"',
    "${t:+set}",
    "${model%%/*}",
    "${model/o/p}",
    "${#model}",
    "$((n / 2 + 1))",
    "$(printf 'a%s' b)",
    '"$(printf "x y")"',
    "`printf z`",
    "a=b=c",
    "a,b",
    "é→ü",
    "$2",
    '"$2"',
    "${3}",
    '""x',
    "{a}",
    "'#no comment'",
    "a#b",
    '"line\\\nbreak"',
]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_a_word_reaches_the_server_unchanged(word, shell, tmp_path):
    if word.startswith(("$'", "${model/", "~/")):
        shell = "bash"  # dash does not have these expansions
    text = f"docker run -p 8080:80 -e HF_TOKEN={word} {IMAGE} --model-id o/m --api-key {word}"
    arguments = ("first", "second", "5")
    original = run_script(text, tmp_path, VALUES, arguments, shell)
    printed = run_script(migrated(text).script, tmp_path, VALUES, arguments, shell)
    assert original is not None and printed is not None
    assert printed.arguments[-1] == original.arguments[-1]
    variable = next(a for a in original.arguments if a.startswith("HF_TOKEN="))
    expected = variable.removeprefix("HF_TOKEN=")
    assert printed.environment["HF_TOKEN"] == expected


def test_the_check_finds_a_lost_quote(tmp_path):
    """A command whose quotes were removed starts the server with other arguments."""
    text = f"docker run -p 8080:80 {IMAGE} --model-id o/m --api-key '$model'"
    script = migrated(text).script
    right = run_script(script, tmp_path, VALUES)
    wrong = run_script(script.replace("'", ""), tmp_path, VALUES)
    assert right.arguments[-1] == "$model"
    assert wrong.arguments[-1] == "o/m"
