"""The commands of docs/tools.md, run as written except for the port."""

import json
import re
import shlex

import httpx
import pytest

from tests.core.house.sources import ROOT
from tests.live_server import running_server
from tgi.text.output import REASONING_PARSERS, TOOL_CALL_PARSERS

PAGE = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")
DEMO = ROOT / "core" / "tgi" / "demo" / "model"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def responses(tmp_path_factory):
    """The responses to the commands of the page."""
    found = []
    with running_server(DEMO, "cpu", tmp_path_factory.mktemp("tools") / "log") as server:
        for block in blocks("sh"):
            curl, url, header_flag, header, data_flag, body = shlex.split(block)
            assert (curl, header_flag, data_flag) == ("curl", "-H", "-d")
            name, value = header.split(": ")
            response = httpx.post(
                url.replace("localhost:3000", server.url),
                headers={name: value},
                content=body,
                timeout=60,
            )
            assert response.status_code == 200, response.text
            found.append(response.json())
    return found


def without_ids(value):
    """The value without the ids of calls, which differ in each response."""
    if isinstance(value, dict):
        return {key: without_ids(entry) for key, entry in value.items() if key != "id"}
    return [without_ids(entry) for entry in value] if isinstance(value, list) else value


def test_the_responses_are_those_of_the_page(responses):
    choice, block = (without_ids(json.loads(text)) for text in blocks("json"))
    called, answered, message = responses
    assert without_ids(called["choices"]) == [choice]
    assert answered["choices"][0]["message"]["content"]
    assert without_ids(message["content"]) == [block]


def test_the_page_lists_all_parsers():
    names = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    for name in {*TOOL_CALL_PARSERS, *REASONING_PARSERS} - {"auto", "none"}:
        assert name in names
