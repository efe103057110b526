"""Every way to start TGI 3 is converted to a command with the same effect, or rejected with the
true reason.
"""

import pytest

from tests.core.cli.migration.compose_cases import CASES as COMPOSE_CASES
from tests.core.cli.migration.docker_cases import CASES as DOCKER_CASES
from tests.core.cli.migration.file_cases import CASES as FILE_CASES
from tests.core.cli.migration.script_cases import CASES as SCRIPT_CASES
from tgi.cli import main

CASES = [*DOCKER_CASES, *SCRIPT_CASES, *COMPOSE_CASES, *FILE_CASES]


def output_of(case, folder, capsys, monkeypatch):
    """Return the exit code, the printed commands, and all printed text."""
    text = case.text
    if case.file:
        (folder / case.file).write_text(text)
        monkeypatch.chdir(folder)
        text = case.file
    exit_code = main(["migrate", text])
    captured = capsys.readouterr()
    commands = []
    for block in captured.out.split("\n# "):
        lines = block.partition("\n\nWhat changes:")[0].strip().splitlines()
        named = captured.out.startswith("# ") or len(commands) > 0
        commands.append("\n".join(lines[1:] if named else lines))
    return exit_code, "\n".join(filter(None, commands)), captured.out + captured.err


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_start_is_converted(case, tmp_path, capsys, monkeypatch):
    exit_code, commands, text = output_of(case, tmp_path, capsys, monkeypatch)
    assert exit_code == (2 if case.script is None else 0), text
    if case.script is not None:
        assert commands == case.script, text
    for part in case.notes:
        assert part in text
    for part in case.absent:
        assert part not in text


def test_a_file_in_another_folder(tmp_path, capsys):
    path = tmp_path / "run.sh"
    path.write_text("text-generation-launcher --model-id ./m")
    assert main(["migrate", str(path)]) == 0
    assert f"Run the command in the folder `{tmp_path}`" in capsys.readouterr().out


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    path = tmp_path / "run.sh"
    path.write_bytes(b"\xff\xfe")
    assert main(["migrate", str(path)]) == 2
    assert main(["migrate", str(tmp_path / "none.service")]) == 2
    text = capsys.readouterr().err
    assert "run.sh` cannot be read" in text
    assert "none.service` does not exist" in text


def test_the_names_of_the_cases_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
