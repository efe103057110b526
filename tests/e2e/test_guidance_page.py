"""The commands of docs/guidance.md, run as written except for the port."""

import json
import re
import shlex

import httpx
import jsonschema
import pytest

from tests.core.house.sources import ROOT
from tests.live_server import running_server

PAGE = (ROOT / "docs" / "guidance.md").read_text(encoding="utf-8")
DEMO = ROOT / "core" / "tgi" / "demo" / "model"
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def responses(tmp_path_factory):
    """The responses to the commands of the page."""
    found = []
    with running_server(DEMO, "cpu", tmp_path_factory.mktemp("guidance") / "log") as server:
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
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


def test_the_responses_follow_the_constraints(responses):
    generated, chat, choice = responses
    jsonschema.validate(json.loads(generated["generated_text"]), SCHEMA)
    jsonschema.validate(json.loads(chat["choices"][0]["message"]["content"]), SCHEMA)
    assert choice["choices"][0]["message"]["content"] in ("yes", "no")
