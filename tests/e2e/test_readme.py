"""The README's first screen, run as it is written, on a port of its own."""

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
    """What make would run for this line, with this interpreter in place of the one in .venv."""
    # Under `make test` this would be a make within make, which inherits flags and says more.
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


def test_the_first_screen_works(tmp_path):
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
    # Word for word it may differ by the last bit of another processor's arithmetic.
    assert "machine learning" in json.loads(response_block)["generated_text"]
    assert "learning" in response.json()["generated_text"]
    text = log.read_text()
    assert "Connected" in text
    assert process.returncode == 0, text
    assert "Shutting down" in text
