"""The commands of docs/guidance.md, run as written except for the port."""

import json

from tests.e2e.documented_commands import blocks, read_page, run_commands

PAGE = read_page("guidance.md")


def shown(response):
    """The part of a response that the page shows."""
    return response["choices"][0]["message"] if "choices" in response else response


def test_the_responses_are_those_of_the_page(tmp_path):
    expected = [json.loads(text) for text in blocks(PAGE, "json")]
    assert [shown(response) for response in run_commands(PAGE, tmp_path / "log")] == expected
