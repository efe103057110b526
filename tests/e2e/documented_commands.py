"""Runs the `curl` commands of a documentation page against a server with the demo model."""

import re
import shlex

import httpx

from tests.core.house.sources import ROOT
from tests.live_server import running_server

DEMO = ROOT / "core" / "tgi" / "demo" / "model"


def read_page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(page, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run_commands(page, log):
    """The JSON responses to the commands of a page, run as written except for the port."""
    found = []
    with running_server(DEMO, "cpu", log) as server:
        for block in blocks(page, "sh"):
            curl, url, header_flag, header, data_flag, body = shlex.split(block)
            assert (curl, header_flag, data_flag) == ("curl", "-H", "-d")
            name, value = header.split(": ")
            response = httpx.post(
                url.replace("localhost:3000", server.url),
                headers={name: value},
                content=body,
                timeout=60,
            )
            found.append(response.json())
    return found
