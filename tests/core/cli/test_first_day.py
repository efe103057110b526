"""Messages of the commands are true, and no way to end a command shows a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live_server import free_port
from tgi.backend import BackendInfo, ProbeResult
from tgi.cli import COMMANDS, main
from tgi.errors import BackendError, ConfigError, ModelError, StartError
from tgi.plugins import BackendRegistry, Candidate

ROOT = Path(__file__).parents[3]
INSTALL = re.compile(r"pip install (?=.*-e \.)(?!.*--group).*")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_succeeds(capsys, command):
    try:
        code = main([command, "--help"])
    except SystemExit as end:  # argparse
        code = end.code
    assert code == 0
    assert capsys.readouterr().out.lower().startswith("usage: tgi ")


@pytest.mark.parametrize("command", ["serve", "inspect", "doctor", "migrate", "version"])
def test_a_reader_that_ends_early_gives_no_traceback(command):
    """The pipe has no reader when the command prints."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "tgi", command, "--help"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_without_unicode_gives_no_traceback():
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tgi", "migrate", "text-generation-launcher --model-id löwe"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "l\\xf6we" in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("bench", "--plot", "/nowhere/x.svg"), "the folder `/nowhere` does not exist"),
        (("bench", "--json", "/"), "it is a folder"),
        (("bench", "--plot", "x.png"), "the format of the file is svg"),
        (("conformance", "null", "--json", "/nowhere/x"), "the folder `/nowhere` does not exist"),
        (("conformance", "null", "--performance", "/nowhere/x"), "`/nowhere` does not exist"),
    ],
)
def test_output_files_are_checked_before_the_run(capsys, words, reason):
    assert main(list(words)) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["serv"], "serve"),
        (["inspekt"], "inspect"),
        (["serve", "--prot", "1"], "--port"),
        (["serve", "--max-total-token", "1"], "--max-total-tokens"),
    ],
)
def test_a_misspelled_word_gets_a_suggestion(capsys, words, suggestion):
    assert main(words) == 2
    assert f"Did you mean '{suggestion}'?" in capsys.readouterr().err


def test_a_word_that_resembles_nothing_gets_no_suggestion(capsys):
    assert main(["serve", "--zzzz", "1"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_an_interrupt_during_the_import_of_a_command_has_the_exit_code_130():
    code = (
        "import sys, tgi.cli, importlib\n"
        "def interrupt(name): raise KeyboardInterrupt\n"
        "importlib.import_module = interrupt\n"
        "sys.exit(tgi.cli.main(['serve']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize("kind", [StartError, ConfigError, ModelError, BackendError])
@pytest.mark.parametrize("cause", ["It must be set", "It must be set.", "Is it set?"])
def test_cause_and_remedy_are_two_sentences(kind, cause):
    assert re.fullmatch(r"(It must be set\.|Is it set\?) Set it\.", str(kind(cause, "Set it.")))
    assert str(kind(cause)) == cause


def test_only_extras_that_exist_are_named():
    extras = (ROOT / "pyproject.toml").read_text()
    for name in ("cuda", "rocm", "no-such"):
        with pytest.raises(BackendError) as caught:
            BackendRegistry().usable(name)
        named = re.findall(r'"tgi\[([\w-]+)\]"', str(caught.value))
        assert all(f"\n{extra} = [" in extras for extra in named), str(caught.value)


def test_backends_for_tests_are_named_only_on_request():
    registry = BackendRegistry()
    with pytest.raises(BackendError) as caught:
        registry.usable("no-such")
    assert "`null`" not in str(caught.value)
    assert registry.usable("null")[0].name == "null"


def install_lines():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    sources = sorted((ROOT / "core/tgi/cli").glob("*.py"))
    for path in (*pages, *sources):
        text = re.sub(r'"\s*\n\s*"', "", path.read_text(encoding="utf-8"))
        for found in INSTALL.finditer(text):
            yield path.relative_to(ROOT), found[0]


def test_every_written_installation_from_a_checkout_uses_the_constraints():
    lines = list(install_lines())
    assert len(lines) >= 3
    for path, line in lines:
        assert "-c constraints.txt" in line, (path, line)
        assert "backends/torch" not in line or "torch==" in line, (path, line)


def test_the_status_of_a_backend_contains_the_condition_of_its_probe():
    info = BackendInfo("chip", (1, 0), "p", "1", selectable=False)
    candidate = Candidate("chip", "p", "1", info=info, probe=ProbeResult(True, "needs an option"))
    assert candidate.status == "usable (needs an option, only when named)"


def test_the_line_about_a_host_name_is_a_warning(tmp_path):
    """The server ends after the line, because there is no model."""
    command = [sys.executable, "-m", "tgi", "serve", str(tmp_path), "--backend", "null"]
    command += ["--hostname", "localhost", "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = [line for line in done.stderr.splitlines() if "Invalid hostname" in line]
    assert " WARN" in line


@pytest.mark.parametrize("flag", ["--waiting-served-ratio", "--max-waiting-tokens"])
def test_help_names_the_backends_on_which_an_option_has_an_effect(capsys, flag):
    assert main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    about = text[text.index(f"{flag} ") :][:400]
    assert "only on backends that run prefill and decode in separate steps" in about
