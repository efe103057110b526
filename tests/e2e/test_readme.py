"""The commands at the start of the README, run as written except for the port."""

import json
import os
import re
import shlex
import subprocess
import sys

import httpx

from tests.core.house.sources import ROOT
from tests.live_server import free_port, wait_ready

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def served_command(line, port):
    """Return the command that make would run for this line, with this Python interpreter instead of
    the one in .venv.
    """
    # Under `make test` the variables MAKE* are set. They would pass on flags to this make and
    # change its output.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        [
            *shlex.split(line),
            f"PORT={port}",
            "-n",
            "--no-print-directory",
            "--assume-old=.venv/bin/python",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    program, *arguments = shlex.split(shown.stdout.strip().splitlines()[-1].removeprefix("exec "))
    assert program == ".venv/bin/tgi"
    return [sys.executable, "-m", "tgi", *arguments]


def test_the_first_commands_work(tmp_path):
    run_block, curl_block = blocks("sh")[:2]
    (response_block,) = blocks("json")
    assert run_block.strip() == "make serve PORT=3000"
    curl, url, header_flag, header, data_flag, body = shlex.split(curl_block.replace("\\\n", " "))
    assert (curl, header_flag, data_flag) == ("curl", "-H", "-d")
    port = free_port()
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            served_command(run_block, port), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_ready(f"http://127.0.0.1:{port}", process, log)
        name, value = header.split(": ")
        response = httpx.post(
            "http://" + url.replace("3000", str(port)),
            headers={name: value},
            content=body,
            timeout=60,
        )
    finally:
        process.terminate()
        process.wait(30)
    assert response.status_code == 200
    assert response.json().keys() == json.loads(response_block).keys()
    # The text may differ in some words, because rounding depends on the processor.
    assert "machine learning" in json.loads(response_block)["generated_text"]
    assert "learning" in response.json()["generated_text"]
    text = log.read_text()
    assert "Connected" in text
    assert process.returncode == 0, text
    assert "Shutting down" in text
