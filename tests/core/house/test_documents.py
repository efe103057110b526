"""Rules for documents that a program can check."""

import re

import pytest

from tests.core.house.sources import ROOT, files
from tgi.config import OPTIONS, options_help, options_page

FRAGMENT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(feature|change|fix|removal)\.md")
MAX_SENTENCES = 2
SECTIONS = ["## Context", "## Decision", "## Consequences"]
DECISION = re.compile(r"\d{4}-[a-z0-9-]+\.md")


def test_the_option_page_equals_the_table():
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(), "run: python -m tgi.config > docs/options.md"


def test_every_option_is_in_the_help():
    text = options_help()
    assert [row.flag for row in OPTIONS if f" {row.flag}" not in text] == []


def changelog_problem(name, text):
    """Return the first rule of `changelog/README.md` that a fragment violates, or None."""
    text = text.strip()
    if not FRAGMENT.fullmatch(name):
        return "its name is not <slug>.<feature|change|fix|removal>.md"
    if "\n\n" in text or text.startswith(("*", "#", "-")):
        return "it has more than one paragraph"
    if not (text[:1].isupper() or text[:1] == "`") or not text.endswith("."):
        return "it is not a whole sentence"
    if len(re.findall(r"\.(?=\s|$)", text)) > MAX_SENTENCES:
        return f"it has more than {MAX_SENTENCES} sentences"
    return None


def test_each_changelog_fragment_describes_one_change():
    fragments = [path for path in (ROOT / "changelog").iterdir() if path.name != "README.md"]
    assert fragments
    problems = {
        path.name: problem
        for path in fragments
        if (problem := changelog_problem(path.name, path.read_text(encoding="utf-8")))
    }
    assert not problems


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a-change.fix.md", "`x` is faster.\n", None),
        ("7.notes.md", "A.\n", "its name"),
        ("a.fix.md", "A change.\n\nAnother one.\n", "more than one paragraph"),
        ("a.fix.md", "no sentence\n", "not a whole sentence"),
        ("a.fix.md", "One. Two. Three.\n", "more than 2 sentences"),
    ],
)
def test_a_bad_changelog_fragment_is_found(name, text, problem):
    found = changelog_problem(name, text)
    assert found is None if problem is None else problem in found


def decision_problem(name, text):
    """Return the first rule of the format that a decision page violates, or None."""
    if not DECISION.fullmatch(name):
        return "its name is not <number>-<slug>.md"
    outside_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    title, *sections = re.findall(r"^#+ .*$", outside_code, flags=re.MULTILINE)
    if not re.fullmatch(rf"# {name[:4]}\. \S.*", title) or not text.startswith(title):
        return f"it does not begin with `# {name[:4]}. Title`"
    if [section for section in sections if section.startswith("## ")] != SECTIONS:
        return f"its sections are not {', '.join(SECTIONS)}"
    return None


def test_decisions_have_one_format():
    pages = [path for path in (ROOT / "decisions").glob("*.md") if path.name != "README.md"]
    problems = {
        path.name: problem
        for path in pages
        if (problem := decision_problem(path.name, path.read_text(encoding="utf-8")))
    }
    assert not problems
    numbers = [path.name[:4] for path in pages]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("0001-a.md", "# 0001. A\n\n## Context\n\n## Decision\n\n## Consequences\n", None),
        ("1-a.md", "# 0001. A\n", "its name"),
        ("0001-a.md", "# 0002. A\n", "does not begin with"),
        ("0001-a.md", "# 0001. A\n\n## Options\n", "its sections"),
    ],
)
def test_a_bad_decision_page_is_found(name, text, problem):
    found = decision_problem(name, text)
    assert found is None if problem is None else problem in found


def test_the_documents_contain_no_path_of_a_machine():
    for path in files("*.md", ROOT):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(work|home|root)/", text), path.name
