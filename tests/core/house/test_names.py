"""Words that are not used, with the term of the field for each. Identifiers and prose are checked
in the whole repository.
"""

import ast
import io
import re
import tokenize

import pytest

from tests.core.house.sources import ROOT, files, python_files

# A word of an identifier, such as `wish` in `max_wish` and `WishList`.
IDENTIFIER_WORDS = {
    "answer": "response",
    "answers": "responses",
    "anchors": "scale_candidates",
    "blind": "independent of, without",
    "company": "other rows, other sequences",
    "culprit": "failing sequence",
    "death": "crash",
    "deaths": "crashes",
    "dice": "rng",
    "door": "alias, command",
    "heavy": "worker",
    "hindrance": "unsupported_reason",
    "kit": "suite",
    "ladder": "sweep, levels",
    "light": "backend, without framework",
    "mates": "other rows",
    "neighbours": "other rows, other sequences",
    "news": "output, update",
    "obstacle": "unsupported_reason",
    "permit": "slot",
    "permits": "slots",
    "residence": "epoch",
    "resident": "sequence",
    "residents": "sequences",
    "road": "path",
    "role": "parameter name",
    "roles": "parameter names",
    "room": "package, free tokens",
    "rung": "level",
    "seam": "backend interface",
    "seeing": "vision",
    "shelf": "tiny models",
    "subject": "backend under test",
    "suspect": "quarantined",
    "suspects": "quarantined",
    "told": "reported",
    "trial": "retry, isolation run",
    "trials": "crash_isolation",
    "truth": "reference",
    "verdict": "status",
    "wish": "requested limits",
    "wished": "requested",
}

# A whole identifier.
IDENTIFIERS = {
    "Building": "BuildContext",
    "Host": "WorkerReporter",
    "front": "frontend",
    "given": "request, options, value",
}

# A message of a chat has a role, which is a term of the chat APIs.
CHAT_FOLDERS = ("core/tgi/server/", "tests/compat/")
CHAT_IDENTIFIERS = {"_ROLES", "Role", "role"}

CODE_FOLDERS = ("backends", "benchmarks", "core", "docker", "examples", "tests")

# The training text consists of questions and answers. The decorator of hypothesis is `given`.
TRAINING_TEXT = ("benchmarks/quantization.py", "tests/core/demo/")

PROSE = {
    r"anew": "again",
    r"doors?": "alias, command",
    r"dice": "random number generator",
    r"hardware-blind": "hardware-independent",
    r"heavy half": "`Worker` class",
    r"hindrances?": "reason",
    r"kit": "conformance suite",
    r"ladder": "sweep, levels",
    r"light half": "`Backend` class",
    r"batch mates": "other rows in the batch",
    r"news": "output, update",
    r"nobody": "no sequence, no client",
    r"obstacles?": "reason",
    r"permits?": "concurrency slot",
    r"residence": "epoch",
    r"roads?": "code path",
    r"rooms?": "package, space",
    r"rungs?": "level",
    r"seam": "backend interface",
    r"shelf": "folder",
    r"suspects?": "quarantined sequence",
    r"the front(?![\s-]*end)": "the front end",
    r"verdicts?": "status, result",
    r"whatever": "any",
    r"whoever": "the sequence that",
    r"wish(?:es|ed)?": "request, requested",
}
PROSE_PATTERN = re.compile(r"\b(" + "|".join(PROSE) + r")\b", re.IGNORECASE)

# The page on writing lists the words, and the results of finished runs are not edited.
WITHOUT_PROSE_RULE = ("docs/writing.md", "tests/core/house/test_names.py", "benchmarks/results/")


def words_of(identifier):
    """Split an identifier into words: `max_numRows` gives max, num and rows."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def unwanted(identifier):
    """Return the terms to use instead of the unwanted words of an identifier."""
    terms = [IDENTIFIER_WORDS[word] for word in words_of(identifier) if word in IDENTIFIER_WORDS]
    return terms + ([IDENTIFIERS[identifier]] if identifier in IDENTIFIERS else [])


def identifiers_in(source):
    """Return the identifiers of a Python text."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def prose_of_code(source):
    """Yield the comments and docstrings of a Python text."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def prose_of_markdown(text):
    """Yield the lines of a Markdown text outside code blocks, without inline code."""
    for number, part in enumerate(re.split(r"^\s*```.*$", text, flags=re.MULTILINE)):
        if number % 2 == 0:
            yield re.sub(r"`[^`]*`", "", part)


def prose_of_cpp(source):
    """Yield the comments of a C++ text."""
    yield from re.findall(r"//.*", source)


def unwanted_prose():
    """Return the unwanted words in prose, by folder."""
    readers = (("*.py", prose_of_code), ("*.md", prose_of_markdown))
    readers += (("*.cpp", prose_of_cpp), ("*.h", prose_of_cpp))
    found = {}
    for pattern, prose in readers:
        for path in files(pattern, ROOT):
            place = path.relative_to(ROOT)
            text = path.read_text(encoding="utf-8")
            words = [w.lower() for part in prose(text) for w in PROSE_PATTERN.findall(part)]
            if words and not place.as_posix().startswith(WITHOUT_PROSE_RULE):
                found.setdefault("/".join(place.parts[:-1][:3]), []).append((place.name, words))
    return found


def test_identifiers_use_the_terms_of_the_field():
    found, chat = {}, set()
    for path in python_files(*(ROOT / folder for folder in CODE_FOLDERS)):
        source, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        names = identifiers_in(source)
        if "from hypothesis import" in source:
            names.discard("given")
        if place.startswith(TRAINING_TEXT):
            names = {n for n in names if not {"answer", "answers"} & set(words_of(n))}
        if place.startswith(CHAT_FOLDERS):
            chat |= names & CHAT_IDENTIFIERS
            names -= CHAT_IDENTIFIERS
        found |= {(place, name): terms for name in names if (terms := unwanted(name))}
    assert not found, "use the terms of the field instead"
    assert chat == CHAT_IDENTIFIERS


def test_prose_uses_the_terms_of_the_field():
    assert not unwanted_prose(), "use the terms of the field instead"


@pytest.mark.parametrize(
    ("identifier", "terms"),
    [
        ("wish_list", ["requested limits"]),
        ("MaxWish", ["requested limits"]),
        ("Host", ["WorkerReporter"]),
        ("has_host_network", []),
        ("controls", []),
        ("PERMITS", ["slots"]),
    ],
)
def test_the_words_of_an_identifier_are_found(identifier, terms):
    assert unwanted(identifier) == terms


def test_prose_is_found():
    source = '"""The seam."""\n\nx = "the kit"  # a room of its own\n'
    parts = [w for part in prose_of_code(source) for w in PROSE_PATTERN.findall(part)]
    assert parts == ["room", "seam"]
    assert "".join(prose_of_markdown("a `kit`\n```\nkit\n```\nb")).split() == ["a", "b"]
