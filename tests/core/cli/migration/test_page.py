"""The commands on the page about the migration print the shown text."""

import os
import re
import subprocess
import sys

import pytest

from tests.core.cli.migration.compose_cases import CASES as COMPOSE_CASES
from tests.core.house.sources import ROOT
from tgi.cli.migration.container_run import CONTAINER_PROGRAMS
from tgi.cli.migration.data import DEVICE_PROGRAM

PAGE = (ROOT / "docs" / "migrating-from-tgi-3.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", PAGE, re.M | re.S)


def printed(command, folder):
    program = folder / "tgi"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tgi "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(("command", "expected"), [block for block in BLOCKS if block[1]])
def test_a_command_prints_the_shown_text(command, expected, tmp_path):
    text = printed(command, tmp_path)
    assert text.partition("\n\nWhat changes:")[0] == expected.strip()
    assert "\n* " in text


def test_the_file_on_the_page_is_read(tmp_path):
    ((command, _),) = [block for block in BLOCKS if not block[1]]
    case = next(case for case in COMPOSE_CASES if case.name == "a_built_image")
    (tmp_path / "compose.yaml").write_text(case.text)
    assert case.script in printed(command, tmp_path)


def test_the_page_has_both_kinds_of_blocks():
    assert len([block for block in BLOCKS if block[1]]) >= 2


def test_the_page_names_every_program():
    missing = {name for name in CONTAINER_PROGRAMS if f"`{name} " not in PAGE and name != "srun"}
    assert missing == {DEVICE_PROGRAM, "singularity"}  # old names of docker and apptainer
