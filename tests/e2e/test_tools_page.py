"""The commands of docs/tools.md, run as written except for the port."""

import json
import re

from tests.e2e.documented_commands import blocks, read_page, run_commands
from tgi.text.output import REASONING_PARSERS, TOOL_CALL_PARSERS

PAGE = read_page("tools.md")


def without_ids(value):
    """The value without the ids of calls, which differ in each response."""
    if isinstance(value, dict):
        return {key: without_ids(entry) for key, entry in value.items() if key != "id"}
    return [without_ids(entry) for entry in value] if isinstance(value, list) else value


def test_the_responses_are_those_of_the_page(tmp_path):
    choice, block = (without_ids(json.loads(text)) for text in blocks(PAGE, "json"))
    called, continued, message = run_commands(PAGE, tmp_path / "log")
    assert without_ids(called["choices"]) == [choice]
    assert continued["choices"][0]["message"]["content"]
    assert without_ids(message["content"]) == [block]


def test_the_page_lists_all_parsers():
    names = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    for name in {*TOOL_CALL_PARSERS, *REASONING_PARSERS} - {"auto", "none"}:
        assert name in names
