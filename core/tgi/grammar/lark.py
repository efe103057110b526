"""Checks the Lark and GBNF grammars of clients, and writes parts of Lark grammars."""

from __future__ import annotations

import json
import re
from typing import Final

from llguidance.gbnf_to_lark import gbnf_to_lark

from tgi.grammar.constraint import GrammarError
from tgi.grammar.json_text import check_text
from tgi.grammar.limits import MAX_GBNF_BYTES, MAX_INTERSECTIONS, MAX_NESTING
from tgi.grammar.schema.normalizer import normalized_schema
from tgi.grammar.token_table import TokenTable

__all__ = ["lark_string", "marker", "normalized_lark", "resolved_markers"]

_GBNF: Final = re.compile(r"^\s*root\s*::=", re.MULTILINE)
_PART: Final = re.compile(
    r"""(?P<comment>(?:\#|//)[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*")
    |(?P<regex>/(?:\\.|[^/\\\n])+/)
    |(?P<json>%json\s*(?=\{))
    |(?P<marker>⟪"(?:\\.|[^"\\\n])*"⟫)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_MARKER: Final = re.compile(r'⟪("(?:\\.|[^"\\\n])*")⟫')


def lark_string(text: str) -> str:
    """The Lark literal of a text."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def marker(text: str) -> str:
    """A part of a Lark grammar that matches a marker of the model, such as `<tool_call>`.

    If a special token has this text, the part matches this token. Otherwise it matches the text.
    The vocabulary is not needed before the grammar is compiled.
    """
    return f"⟪{lark_string(text)}⟫"


def resolved_markers(grammar: str, table: TokenTable, special_ids: frozenset[int]) -> str:
    """The grammar with a special token or a literal for each `marker`."""

    def replacement(found: re.Match[str]) -> str:
        text: str = json.loads(found[1])
        token_id = table.id_of(text.encode())
        return f"<[{token_id}]>" if token_id in special_ids else found[1]

    return _MARKER.sub(replacement, grammar) if "⟪" in grammar else grammar


def normalized_lark(text: str) -> str:
    """The grammar with checked and rewritten `%json` schemas. A GBNF grammar is converted to Lark.
    Raises `GrammarError`.

    A grammar can name special tokens, for example `<|python_tag|>`. They have an effect on the
    output of this request only.
    """
    check_text(text, "the grammar")
    if not text.strip():
        raise GrammarError("the grammar must not be empty")
    if text.lstrip().startswith("{"):
        raise GrammarError("a Lark grammar must begin with a rule, not with `{`")
    if _GBNF.search(text):
        text = _from_gbnf(text)
    parts: list[str] = []
    place = depth = num_operators = 0
    while place < len(text):
        found = _PART.match(text, place)
        assert found is not None  # the last alternative matches any character
        place = found.end()
        if found["json"]:
            schema, place = _schema_at(text, place)
            parts.append(f"%json {schema}")
            continue
        depth = _checked_depth(depth, found["other"] or "")
        num_operators += found[0] in {"&", "~"}
        parts.append(_checked(found))
    if num_operators > MAX_INTERSECTIONS:
        raise GrammarError(
            f"the grammar has {num_operators} operators `&` and `~`, but the limit is"
            f" {MAX_INTERSECTIONS}"
        )
    return "".join(parts)


def _checked_depth(depth: int, character: str) -> int:
    """The nesting of brackets after a character."""
    if character and character in "([{":
        depth += 1
    elif character and character in ")]}":
        depth -= 1
    if depth > MAX_NESTING:
        raise GrammarError(
            f"the grammar has more than {MAX_NESTING} nested brackets; use more rules"
        )
    return depth


def _checked(found: re.Match[str]) -> str:
    part = found[0]
    if found["regex"] or found["string"]:
        # A marker is not a part of a literal.
        return part.replace("⟪", r"\x{27EA}" if found["regex"] else r"\u27ea")
    if part == "%" and found.string.startswith("%llguidance", found.start()):
        raise GrammarError("`%llguidance` is not supported: the server sets these options")
    return part


def _schema_at(text: str, place: int) -> tuple[str, int]:
    """The schema after `%json`, rewritten, and the place after it."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the schema after `%json` is not JSON: {error}") from None
    return normalized_schema(text[place:end]), end


def _from_gbnf(text: str) -> str:
    size = len(text.encode())
    if size > MAX_GBNF_BYTES:
        raise GrammarError(f"the GBNF grammar has {size} bytes, but the limit is {MAX_GBNF_BYTES}")
    try:
        return str(gbnf_to_lark(text)).replace("%llguidance {}", "", 1)
    except RecursionError:
        raise GrammarError("the GBNF grammar is nested too deeply") from None
    except Exception as error:  # the converter of llguidance raises several types
        raise GrammarError(f"the GBNF grammar is invalid: {error}") from None
