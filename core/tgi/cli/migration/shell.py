"""Parses shell scripts with tree-sitter into commands and assignments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import final

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from tgi.cli.migration.words import Atom, Expansion, Word
from tgi.config import UsageError

__all__ = ["Assignment", "Command", "Script", "parse_script"]

_PLACEHOLDER = re.compile(r"(?<=[=\s])<([A-Za-z][\w -]*)>(?=\s|$)")
_PROMPT = re.compile(r"^[ \t]*\$ +", re.MULTILINE)
_MAKE_VARIABLE = re.compile(r"\$\(([A-Z_][A-Z0-9_]*)\)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r'\\([\\"$`])')
_ANSI_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|(.))",
    re.DOTALL,
)
_ANSI_CHARACTERS = dict(zip("abeEfnrtv\\'\"?", "\a\b\x1b\x1b\f\n\r\t\v\\'\"?", strict=True))
_UNICODE_END = 0x110000
_GAP_PART = re.compile(r"\\(.)|\s", re.DOTALL)
# bash replaces a tilde at the start of a word and after the equals sign of an assignment.
_HOME = re.compile(r"((?:[A-Za-z_]\w*=)?)(~[\w-]*)(?=/|$)")
_CONTINUATION = re.compile(r"\\\r?\n")
_EXPANSIONS = frozenset(
    {
        "simple_expansion",
        "expansion",
        "command_substitution",
        "arithmetic_expansion",
        "process_substitution",
    }
)
_ASSIGNMENTS = ("variable_assignment", "variable_assignments", "declaration_command")
_BLOCKS = {
    "for_statement": "for",
    "c_style_for_statement": "for",
    "while_statement": "while",
    "if_statement": "if",
    "case_statement": "case",
    "function_definition": "function",
}


@final
@dataclass(frozen=True)
class Assignment:
    """An assignment `NAME=value` that is a statement. `source` is the whole statement. The
    assignment is conditional in a compound statement such as a loop, and after a test.
    """

    name: str
    value: Word
    source: str
    is_exported: bool = False
    is_conditional: bool = False


@final
@dataclass(frozen=True)
class Command:
    """A simple command. `assignments` are the assignments before its first word. `context` contains
    its redirections, its pipeline and its `&`. `block` is the kind of the compound statement around
    the command, or an empty string.
    """

    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...]
    source: str
    line: int
    context: tuple[str, ...] = ()
    block: str = ""

    @property
    def program(self) -> str:
        """The name of the program without its folder, or an empty string."""
        return self.words[0].text.rpartition("/")[2] if self.words else ""


@final
@dataclass(frozen=True)
class Script:
    """The commands and assignments of a script, in their order."""

    statements: tuple[Command | Assignment, ...]
    placeholders: tuple[str, ...] = ()
    make_variables: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class _Place:
    """The position of a node in the script."""

    block: str = ""
    statement: str = ""  # the compound statement around the node
    context: tuple[str, ...] = ()
    more_words: tuple[Word, ...] = field(default=())


def parse_script(text: str) -> Script:
    """Parse a shell script or a single command. Raises `UsageError` if it is not valid shell text.

    A placeholder such as `<your-token>` is read as a word, although a shell would read it as two
    redirections. `$(NAME)` is read as a variable of make. A prompt `$ ` is removed.
    """
    text = _PROMPT.sub("", text.replace("\r\n", "\n"))
    placeholders = tuple(match[0] for match in _PLACEHOLDER.finditer(text))
    text = _PLACEHOLDER.sub(lambda match: f"'{match[0]}'", text)
    made = tuple(dict.fromkeys(_MAKE_VARIABLE.findall(text)))
    text = _MAKE_VARIABLE.sub(r"${\1}", text)
    root = _parser().parse(text.encode()).root_node
    if root.has_error:
        raise UsageError(
            f"error: the command cannot be parsed: {_reason(text, root)}.",
            "Correct the command, and quote the whole command: tgi migrate '…'.",
        )
    return Script(tuple(_statements(root, _Place())), placeholders, made)


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))


def _reason(text: str, root: Node) -> str:
    try:
        shlex.split(text, comments=True)
    except ValueError as error:
        return str(error).removesuffix(".")
    line = next((n.start_point[0] for n in _all(root) if n.is_error or n.is_missing), 0) + 1
    return f"line {line} is not valid shell text"


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _all(child)


def _statements(node: Node, place: _Place) -> Iterator[Command | Assignment]:
    match node.type:
        case "command":
            yield _command(node, place)
        case "variable_assignment":
            yield _assignment(node, place)
        case "declaration_command":
            is_exported = _text(node).startswith(("export", "declare -x", "typeset -x"))
            for child in node.named_children:
                if child.type == "variable_assignment":
                    yield _assignment(child, place, _text(node), is_exported)
        case "redirected_statement":
            yield from _redirected(node, place)
        case "pipeline":
            yield from _pipeline(node, place)
        case "comment" | "heredoc_body":
            return
        case _:
            yield from _nested(node, place)


def _nested(node: Node, place: _Place) -> Iterator[Command | Assignment]:
    """Return the statements in a list, a block or a compound statement."""
    if node.type in _BLOCKS and not place.block:
        place = _Place(_BLOCKS[node.type], _text(node), place.context)
    elif node.type == "list" and not place.statement and _is_conditional(node):
        place = _Place(place.block, _text(node), place.context)
    name = node.child_by_field_name("variable")
    if node.type == "for_statement" and name is not None:
        yield Assignment(_text(name), Word(), place.statement, is_conditional=True)
    for child in node.named_children:
        yield from _statements(child, place)


def _is_conditional(node: Node) -> bool:
    """Return whether a list consists of tests and assignments, as in `[ -n "$A" ] && B=c`."""
    parts = [child for child in node.named_children if child.type != "list"]
    inner = [child for child in node.named_children if child.type == "list"]
    tests = [part for part in parts if part.type == "test_command"]
    others = [part for part in parts if part.type not in ("test_command", *_ASSIGNMENTS)]
    return not others and (bool(tests) if not inner else all(map(_is_conditional, inner)))


def _redirected(node: Node, place: _Place) -> Iterator[Command | Assignment]:
    """Return the statement with its redirections. tree-sitter counts the words after a redirection
    as parts of the redirection.
    """
    body, *redirects = node.named_children
    words: list[Word] = []
    texts = []
    for redirect in redirects:
        parts = [child for child in redirect.named_children if child.type != "file_descriptor"]
        words += _words(parts[1:] if redirect.type == "file_redirect" else [])
        end = parts[0].end_byte if parts else redirect.end_byte
        source = redirect.text or b""
        texts.append(source[: end - redirect.start_byte].decode().strip())
    if body.type in ("file_redirect", "heredoc_redirect"):  # a redirection without a command
        return
    yield from _statements(
        body,
        _Place(place.block, place.statement, (*texts, *place.context), tuple(words)),
    )


def _pipeline(node: Node, place: _Place) -> Iterator[Command | Assignment]:
    parts = node.named_children
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        rest = () if following is None else (f"| {_between(following, parts[-1])}",)
        yield from _statements(
            part, _Place(place.block, place.statement, (*rest, *place.context), place.more_words)
        )


def _command(node: Node, place: _Place) -> Command:
    assignments, nodes = [], []
    for child in node.named_children:
        if child.type == "variable_assignment":
            assignments.append(_assignment(child, _Place()))
        elif child.type not in ("file_redirect", "herestring_redirect", "comment"):
            nodes.append(child)
    words = _words(nodes)
    context = place.context
    following = _statement(node).next_sibling
    if following is not None and following.type == "&":
        context = (*context, "&")
    return Command(
        (*words, *place.more_words),
        tuple(assignments),
        _text(node),
        node.start_point[0] + 1,
        context,
        place.block,
    )


def _statement(node: Node) -> Node:
    """Return the command with its redirections and its pipeline."""
    while node.parent is not None and node.parent.type in ("redirected_statement", "pipeline"):
        node = node.parent
    return node


def _assignment(
    node: Node, place: _Place, source: str = "", is_exported: bool = False
) -> Assignment:
    name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
    if name is None:
        raise UsageError(f"error: the assignment `{_text(node)}` cannot be parsed.")
    return Assignment(
        _text(name),
        Word() if value is None else _word(value),
        place.statement or source or _text(node),
        is_exported,
        bool(place.statement),
    )


def _words(nodes: Sequence[Node]) -> list[Word]:
    """Return the words of sibling nodes. tree-sitter omits a blank after a backslash and splits the
    word there, so that the text between two nodes decides whether they are one word.
    """
    words: list[Word] = []
    for at, node in enumerate(nodes):
        gap = _gap(nodes[at - 1], node) if at else " "
        end, has_blank, start = _split_gap(gap)
        if words and end:
            words[-1] += Word.of(end)
        word = Word.of(start) + _word(node)
        if words and not has_blank:
            words[-1] += word
        else:
            words.append(word)
    return words


def _gap(before: Node, node: Node) -> str:
    """Return the text between two nodes with the same parent."""
    parent = node.parent
    if parent is None or before.end_byte >= node.start_byte:
        return ""
    start = parent.start_byte
    return (parent.text or b"")[before.end_byte - start : node.start_byte - start].decode()


def _split_gap(gap: str) -> tuple[str, bool, str]:
    """Split the text between two nodes into the end of the first word, whether there is a blank
    without a backslash, and the start of the second word.
    """
    parts, has_blank = ["", ""], False
    for match in _GAP_PART.finditer(_CONTINUATION.sub("", gap)):
        if match[1] is None:
            has_blank = True
        else:
            parts[has_blank] += match[1]
    return parts[0], has_blank, parts[1]


def _word(node: Node) -> Word:
    """Return the word of a node. Backslashes, quotes and line continuations are removed."""
    if node.type == "command_name":
        return _word(node.named_children[0])
    if node.type == "concatenation":
        return Word(tuple(atom for word in _words(node.children) for atom in word.atoms))
    return Word(tuple(_atoms(node)))


def _atoms(node: Node) -> Iterator[Atom]:
    text = _text(node)
    if node.type in _EXPANSIONS:
        yield Expansion(text)
    elif node.type == "string":
        yield from _string(node)
    elif node.type == "raw_string":
        yield from text[1:-1]
    elif node.type == "ansi_c_string":
        yield from _ANSI_ESCAPE.sub(_ansi_character, text[2:-1])
    elif node.type == "translated_string":
        for child in node.named_children:
            yield from _atoms(child)
    elif (match := _HOME.match(text)) is not None and _begins_a_word(node):
        yield from match[1]
        yield Expansion(match[2])
        yield from _ESCAPED.sub(r"\1", text[match.end() :])
    else:
        yield from _ESCAPED.sub(r"\1", _CONTINUATION.sub("", text))


def _ansi_character(match: re.Match[str]) -> str:
    """Return the character of an escape sequence in `$'…'`."""
    octal, *hexadecimals, other = match.groups()
    digits = octal or next(filter(None, hexadecimals), None)
    if digits is not None:
        number = int(digits, 8 if octal else 16)
        return chr(number) if number < _UNICODE_END else match[0]
    return _ANSI_CHARACTERS.get(other, match[0])


def _begins_a_word(node: Node) -> bool:
    parent = node.parent
    if parent is None or parent.type != "concatenation":
        return True
    return parent.children[0] == node


def _string(node: Node) -> Iterator[Atom]:
    """Return the content of a string in double quotes."""
    source, start = node.text or b"", node.start_byte
    at = start + 1
    for child in node.named_children:
        if child.type not in _EXPANSIONS:
            continue
        # tree-sitter counts the blanks before an expansion as a part of it.
        raw = (child.text or b"").decode()
        expansion = raw.lstrip()
        begin = child.end_byte - len(expansion.encode())
        yield from _unescaped(source[at - start : begin - start])
        yield Expansion(expansion, True)
        at = child.end_byte
    yield from _unescaped(source[at - start : -1])


def _unescaped(source: bytes) -> str:
    return _ESCAPED_IN_QUOTES.sub(r"\1", _CONTINUATION.sub("", source.decode()))


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _between(first: Node, last: Node) -> str:
    parent = first.parent
    source = b"" if parent is None else parent.text or b""
    offset = 0 if parent is None else parent.start_byte
    return source[first.start_byte - offset : last.end_byte - offset].decode()
