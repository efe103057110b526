"""The commands of docs/guidance.md, run as written except for the port."""

import json
import re

from tests.e2e.documented_commands import blocks, read_page, run_commands

PAGE = read_page("guidance.md")


def shown(response):
    """The part of a response that the page shows, without the names of persons. The demo model
    chooses them, and another processor can round its probabilities differently.
    """
    part = response["choices"][0]["message"] if "choices" in response else response
    return {
        key: re.sub(r'"name": "[A-Z][a-z]+", "age": [0-9]+', "PERSON", value) if value else value
        for key, value in part.items()
    }


def test_the_responses_are_those_of_the_page(tmp_path):
    expected = [shown(json.loads(text)) for text in blocks(PAGE, "json")]
    assert [shown(response) for response in run_commands(PAGE, tmp_path / "log")] == expected
