"""Properties of a chat template that determine which data it is given.

The template is not compiled for this purpose, because compiling an untrusted template already
evaluates its constant expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

__all__ = ["TemplateTraits"]

_OPEN = re.compile(r"\{([{%#])")
# One token inside a block: a string, an attribute, a name, or another character.
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|\.\s*+\w++|(?P<name>[A-Za-z_]\w*+)|[^'"]""", re.DOTALL
)
_END = {"{": "}}", "%": "%}"}

_ARGUMENTS = r"""[\w.\[\]'"]*arguments['"\]]*"""
_JOINED_ARGUMENTS = re.compile(
    rf"""arguments['"\]]*\s*[+~]|[+~]\s*{_ARGUMENTS}\s*(?:[+~]|-?\}}\}})"""
)
_TESTED_CONTENT = re.compile(r"""content['"\]]*\s+is\s+(?:not\s+)?(?:none|None|string)\b""")
_SHORT_IDS = re.compile(r"""\blength\s*!=\s*9\b""")


@final
@dataclass(frozen=True)
class TemplateTraits:
    """The properties of one template."""

    source: str = ""
    names: frozenset[str] = frozenset()  # variables, functions, filters and keywords
    # The arguments of a tool call are added to a string, so they must be a string.
    joins_arguments: bool = False
    # The template tests if a message has content, so the content of tool calls may be null.
    tests_content: bool = False
    # Mistral's templates reject ids of tool calls that do not have 9 letters and digits.
    needs_short_ids: bool = False

    @classmethod
    def of(cls, source: str) -> TemplateTraits:
        """Read a template's source."""
        return cls(
            source,
            frozenset(_names(source)),
            joins_arguments=_JOINED_ARGUMENTS.search(source) is not None,
            tests_content=_TESTED_CONTENT.search(source) is not None,
            needs_short_ids=_SHORT_IDS.search(source) is not None,
        )

    def mentions(self, word: str) -> bool:
        """Whether the source contains a word, for example the name of a role."""
        return word in self.source

    def uses(self, variable: str) -> bool:
        """Whether the template uses a variable. A text or an attribute with this name does not
        count.
        """
        return variable in self.names


def _names(source: str) -> Iterator[str]:
    """Yield the names in all blocks of a template."""
    position = 0
    while (opening := _OPEN.search(source, position)) is not None:
        kind, position = opening[1], opening.end()
        if kind == "#":
            end = source.find("#}", position)
            position = len(source) if end < 0 else end + 2
            continue
        depth = 0
        while position < len(source):
            if depth == 0 and source.startswith(_END[kind], position):
                position += 2
                break
            token = _TOKEN.match(source, position)
            if token is None:
                return  # A string has no end, so the template does not compile.
            if token["name"] is not None:
                yield token["name"]
            depth += (token[0] == "{") - (token[0] == "}")
            position = token.end()
