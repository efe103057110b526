"""TGI 3's other commands have the same effect as before."""

import json
import subprocess
import sys

import pytest

from tests.live_server import running_server
from tgi.cli import former_commands, main
from tgi.cli.former_commands import FormerFlag, benchmark_main, router_main, server_main, translate
from tgi.config import UsageError


def run(code, *arguments, **variables):
    command = [
        sys.executable,
        "-c",
        f"import sys; from tgi.cli.former_commands import *; sys.exit({code})",
        *arguments,
    ]
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_flags_are_renamed_dropped_or_passed_on():
    flags = {
        "--old": FormerFlag("--new"),
        "--gone": FormerFlag(note="why"),
        "--silent": FormerFlag(takes_value=False),
    }
    words = ["a", "--old", "1", "--gone=2", "--silent", "--port", "3", "--old=4"]
    assert translate(words, flags) == (
        ["a", "--new", "1", "--port", "3", "--new", "4"],
        ["`--gone` has no effect: why."],
    )
    with pytest.raises(UsageError, match="a value is required for '--gone'"):
        translate(["--gone"], flags)


def test_help_and_versions(capsys):
    for command in (server_main, router_main):
        assert command(["--help"]) == 0
        assert command(["--version"]) == 0
    assert server_main(["serve", "--help"]) == 0
    assert server_main([]) == 0
    output = capsys.readouterr()
    assert "text-generation-router 4." in output.out
    assert "--max-batch-prefill-tokens" in output.out
    assert server_main(["serv"]) == 2
    assert server_main(["quantize", "a", "b", "--upload-to-model-id", "c/d"]) == 2
    assert "`--upload-to-model-id` is not supported" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        benchmark_main(["--help"])
    assert ended.value.code == 0


def test_the_server_command_accepts_the_launchers_flags(tmp_path):
    arguments = [
        "serve",
        "./none",
        "--uds-path",
        "/tmp/x",
        "--logger-level",
        "INFO",
        "--sharded",
        "--no-trust-remote-code",
    ]
    finished = run(
        "server_main()", *arguments, "--json-output", "--otlp-service-name", "x", HOME=str(tmp_path)
    )
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert (
        json.loads(lines[0])["message"]
        == "`--uds-path` has no effect: the server chooses its sockets itself."
    )
    assert "The folder `none` does not exist" in lines[-1]


def test_the_router_command_accepts_its_own_names(tmp_path):
    arguments = [
        "--tokenizer-name",
        "./none",
        "--master-shard-uds-path",
        "/tmp/x",
        "--max-batch-prefill-tokens",
        "9",
    ]
    finished = run("router_main()", *arguments, HOME=str(tmp_path))
    assert "The folder `none` does not exist" in finished.stderr
    finished = run("router_main()", HOME=str(tmp_path), TOKENIZER_NAME="./by-variable")
    assert "The folder `by-variable` does not exist" in finished.stderr


def test_the_router_prints_the_schema(capsys):
    assert router_main(["print-schema"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["openapi"].startswith("3.0")
    assert "/generate_stream" in document["paths"]


def test_download_weights_finds_a_local_model(tmp_path, tiny_model, capsys):
    assert (
        server_main(
            ["download-weights", str(tiny_model), "--extension", ".safetensors", "--merge-lora"]
        )
        == 0
    )
    output = capsys.readouterr()
    assert output.out == f"{tiny_model}\n"
    assert "`--merge-lora` has no effect" in output.err
    (tmp_path / "config.json").write_text("{}")
    assert main(["download", str(tmp_path)]) == 1
    assert main(["download", "--port", "1"]) == 2
    assert main(["download", "--revision", "x"]) == 2
    errors = capsys.readouterr().err
    assert "no weights in safetensors or gguf format" in errors
    assert "`tgi download` takes --model-id" in errors


def test_sagemaker_reads_its_variables(tmp_path):
    command = [sys.executable, "-m", "tgi", "sagemaker"]

    def start(**variables):
        environment = {"PATH": "", "HOME": str(tmp_path), **variables}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    finished = start()
    assert (finished.returncode, finished.stderr) == (
        1,
        "Error: HF_MODEL_ID must be set. Set it to the model: a folder or a hub id.\n",
    )
    finished = start(HF_MODEL_ID="./none", HF_MODEL_QUANTIZE="fp9")
    assert "invalid value 'fp9' for '--quantize' (from the variable 'QUANTIZE')" in finished.stderr
    finished = start(
        HF_MODEL_ID="./none",
        HF_MODEL_TRUST_REMOTE_CODE="true",
        SM_NUM_GPUS="1",
        HF_MODEL_REVISION="r",
    )
    assert "The folder `none` does not exist" in finished.stderr


def test_the_benchmark_measures_a_server(tmp_path, tiny_model, capsys):
    with running_server(tiny_model, "null", tmp_path / "log") as server:
        arguments = [
            "--url",
            server.url,
            "-b",
            "1",
            "-b",
            "3",
            "-r",
            "2",
            "-w",
            "1",
            "-d",
            "4",
            "-s",
            "5",
        ]
        assert benchmark_main(["-t", "x", *arguments]) == 0
    output = capsys.readouterr()
    assert "`-t` has no effect: the server has the tokenizer." in output.err
    rows = [line.split() for line in output.out.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows[2:]] == ["1", "3"]
    assert benchmark_main(arguments) == 1
    assert benchmark_main(["--url", "here"]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_no_flag_has_both_a_note_and_a_replacement():
    tables = [value for name, value in vars(former_commands).items() if name.endswith("_FLAGS")]
    assert len(tables) == 5
    for table in tables:
        assert all(not (former.note and former.replacement) for former in table.values())
