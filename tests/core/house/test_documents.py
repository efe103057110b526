"""Documents that a program can hold against the code."""

import re

from tests.core.house.sources import ROOT
from tgi.config import OPTIONS, options_help, options_page

FRAGMENT = re.compile(r"\d+\.(feature|change|fix|removal)\.md")
DECISION = re.compile(r"\d{4}-[a-z0-9-]+\.md")


def test_the_option_page_equals_the_table():
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(), "run: python -m tgi.config > docs/options.md"


def test_every_option_is_in_the_help():
    text = options_help()
    assert [row.flag for row in OPTIONS if f" {row.flag}" not in text] == []


def test_changelog_fragments_are_named_and_speak_in_sentences():
    fragments = [
        path for path in sorted((ROOT / "changelog").iterdir()) if path.name != "README.md"
    ]
    assert fragments
    for path in fragments:
        assert FRAGMENT.fullmatch(path.name), (
            f"{path.name}: name it <number>.<feature|change|fix|removal>.md"
        )
        text = path.read_text(encoding="utf-8").strip()
        assert text[:1].isupper(), f"{path.name}: a full sentence begins with a capital letter"
        assert text.endswith("."), f"{path.name}: a full sentence ends with a full stop"


def test_decisions_are_numbered_once():
    names = [
        path.name for path in sorted((ROOT / "decisions").glob("*.md")) if path.name != "README.md"
    ]
    assert [name for name in names if not DECISION.fullmatch(name)] == []
    numbers = [name[:4] for name in names]
    assert len(numbers) == len(set(numbers))


def test_the_documents_contain_no_path_of_a_machine():
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|home|root)/", text), name
