"""Compiles the constraint of a client to a grammar of llguidance."""

from __future__ import annotations

from tgi.grammar.constraint import Constraint, GrammarError
from tgi.grammar.json_text import check_text, parse_json, short_json
from tgi.grammar.lark import lark_string, normalized_lark
from tgi.grammar.limits import MAX_CHOICES
from tgi.grammar.matcher import Matcher
from tgi.grammar.regex import regex_literal
from tgi.grammar.schema.normalizer import normalized_schema
from tgi.grammar.vocabulary import Vocabulary
from tgi.types import Guidance

__all__ = ["check_grammar", "compile_constraint"]

_ANY_OBJECT = '{"type":"object"}'


def compile_constraint(constraint: Constraint) -> str:
    """The text for `Guidance.grammar`. Raises `GrammarError`.

    The result depends on no vocabulary. `check_grammar` finds the errors that depend on one.
    """
    value = constraint.value
    check_text(value, "the grammar")
    match constraint.kind:
        case "json_schema":
            return f"start: %json {normalized_schema(value)}"
        case "json_object":
            return f"start: %json {normalized_schema(_ANY_OBJECT)}"
        case "regex":
            return f"start: {regex_literal(value)}"
        case "choice":
            return _choice(value)
        case "lark":
            return normalized_lark(value)


def check_grammar(grammar: str, vocabulary: Vocabulary) -> None:
    """Compile `grammar` and compute its first mask. Raises `GrammarError`, whose message names the
    keyword or the limit.
    """
    Matcher(vocabulary, Guidance(grammar))


def _choice(value: str) -> str:
    choices = parse_json(value, "the choice")
    if not isinstance(choices, list) or not choices:
        raise GrammarError("the choice must be a list with at least one string")
    if len(choices) > MAX_CHOICES:
        raise GrammarError(f"the choice has {len(choices)} values, but the limit is {MAX_CHOICES}")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            raise GrammarError(
                f"the choice must contain only strings that are not empty, not {short_json(choice)}"
            )
    return "start: CHOICE\nCHOICE: " + " | ".join(lark_string(choice) for choice in choices)
