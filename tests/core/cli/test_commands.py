"""Commands run as processes: exit codes, and one-line error messages."""

import json
import re
import socket
import subprocess
import sys

import pytest

from tests.core.house.sources import ROOT
from tgi.cli import COMMANDS, launcher_main, main

BLOCK = """
import importlib.abc, sys
blocked = set({blocked!r})
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Blocker())
"""

DEPENDENCIES = [
    *[
        "fastapi",
        "starlette",
        "uvicorn",
        "uvloop",
        "httptools",
        "huggingface_hub",
        "jinja2",
        "msgspec",
        "numpy",
        "pluggy",
    ],
    *["psutil", "rich", "safetensors", "tokenizers", "torch", "transformers", "jax"],
]


def run(*arguments, **variables):
    command = [sys.executable, "-m", "tgi", *arguments]
    return subprocess.run(
        command,
        env={"PATH": "", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_blocked(blocked, code):
    code = BLOCK.format(blocked=blocked) + code
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def assert_one_line(finished, text):
    assert (finished.returncode, finished.stdout) == (1, "")
    *before, last = finished.stderr.strip().splitlines()
    assert re.fullmatch(f"Error: .*{text}.*", last), finished.stderr
    assert not [line for line in before if "Traceback" in line or line.startswith("Error")]


def test_help_needs_no_dependency():
    finished = run_blocked(
        DEPENDENCIES,
        "from tgi.cli import main; sys.exit(main(['--help']) or main(['serve', '--help']))",
    )
    assert finished.returncode == 0, finished.stderr
    assert [name for name in COMMANDS if f"  {name} " not in finished.stdout] == []
    assert "--max-batch-prefill-tokens <INTEGER>" in finished.stdout


def test_a_blocked_import_fails():
    assert "blocked" in run_blocked(["rich"], "import rich").stderr


def test_the_core_imports_without_a_framework():
    code = (
        "import importlib, pkgutil, tgi\nnames = [m.name for m in"
        " pkgutil.walk_packages(tgi.__path__, 'tgi.') if not"
        " m.name.endswith('__main__')]\n[importlib.import_module(name) for name in"
        " names]\nprint(len(names))\n"
    )
    finished = run_blocked(["torch", "jax", "transformers"], code)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 50


def test_a_server_without_grammars_does_not_import_llguidance():
    code = "import tgi.engine.__main__, tgi.cli.frontend, tgi.server.app"
    finished = run_blocked(["llguidance"], code)
    assert finished.returncode == 0, finished.stderr


def test_commands_that_need_no_server(capsys):
    assert main([]) == 0
    assert main(["version"]) == 0
    assert main(["--version"]) == 0
    assert launcher_main(["--version"]) == 0
    assert capsys.readouterr().out.count("4.0.0") >= 4


def test_unknown_arguments_exit_with_two(capsys):
    assert main(["sevre"]) == 2
    assert main(["version", "x"]) == 2
    assert main(["backends", "x"]) == 2
    assert capsys.readouterr().err.count("error: ") == 3


def test_backends_lists_every_backend(capsys):
    assert main(["backends", "--json"]) == 0
    backends = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    null = backends["null"]
    assert null["usable"]
    assert null["status"] == "usable (only when named)"
    assert null["options"][0]["flag"] == "--null-script"
    assert main(["backends"]) == 0
    assert "only when named" in " ".join(capsys.readouterr().out.split())


def test_serve_help_lists_the_options(capsys):
    assert launcher_main(["--help"]) == 0
    assert "--max-batch-prefill-tokens <INTEGER>" in capsys.readouterr().out


def test_a_usage_error_is_one_line_and_exits_with_two():
    finished = run("serve", PORT="http")
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith(
        "error: invalid value 'http' for '--port' (from the variable 'PORT'); it must be an"
        " integer."
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["./no-such-folder"],
            "The folder `no-such-folder` does not exist. Name an existing folder",
        ),
        ([str(ROOT)], r"contains no config\.json"),
        ([str(ROOT / "README.md")], "is a file"),
        (["owner/name"], "not in the cache, and HF_HUB_OFFLINE is set"),
        (["owner name"], "neither a folder nor a hub id"),
        (
            ["--max-input-tokens", "9", "--max-total-tokens", "9"],
            r"`max_input_tokens`\(9\) must be < `max_total_tokens`\(9\)",
        ),
    ],
)
def test_a_start_that_fails_is_one_line(tmp_path, arguments, text):
    finished = run(
        "serve",
        *arguments,
        "--port",
        "0",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path),
        HOME=str(tmp_path),
    )
    assert_one_line(finished, text)


def test_a_taken_port_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        finished = run("serve", "--hostname", "127.0.0.1", "--port", port, HOME=str(tmp_path))
    assert_one_line(
        finished,
        f"Port {port} of 127.0.0.1 cannot be opened: another program uses the port. Choose",
    )


def test_an_unknown_backend_names_the_installed_ones(tmp_path, tiny_model):
    assert_one_line(
        run("serve", str(tiny_model), "--backend", "nil", "--port", "0", HOME=str(tmp_path)),
        "Installed: .*`cpu`",
    )


def test_a_broken_model_is_one_line(tmp_path, tiny_model):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    (tmp_path / "tokenizer.json").write_text('{"version":')
    finished = run("serve", str(tmp_path), "--backend", "null", "--port", "0", HOME=str(tmp_path))
    assert_one_line(finished, r"tokenizer\.json")


def test_a_backend_that_fails_to_start_is_one_line(tmp_path, tiny_model):
    script = tmp_path / "script.json"
    script.write_text('{"start_failure": "the device is on fire"}')
    arguments = ["--backend", "null", "--null-script", str(script), "--port", "0"]
    assert_one_line(
        run("serve", str(tiny_model), *arguments, HOME=str(tmp_path)), "the device is on fire"
    )


def test_an_option_of_another_backend_is_a_usage_error(tmp_path, tiny_model):
    finished = run(
        "serve",
        str(tiny_model),
        "--backend",
        "null",
        "--null-nothing",
        "1",
        "--port",
        "0",
        HOME=str(tmp_path),
    )
    assert finished.returncode == 2
    assert (
        "unexpected argument '--null-nothing' for the backend `null`. The options of"
        " this backend are: --null-script." in finished.stderr
    )
