"""Tests of regular expressions, choices, and Lark and GBNF grammars."""

import pytest

from tests.core.grammar.walks import (
    IM_END,
    THINK,
    allowed_ids,
    allowed_tokens,
    feed,
    is_accepted,
    matcher_for,
)
from tgi.grammar.compile import check_grammar, compile_constraint
from tgi.grammar.constraint import Constraint, GrammarError
from tgi.grammar.lark import marker

REGEXES = [
    ("^(yes|no)$", ["yes", "no"], ["yes!", "^yes"]),
    (r"a\$", ["a$"], ["a"]),
    (r"a\\$", ["a\\"], ["a\\$"]),
    (r"\Aab\z", ["ab"], ["a"]),
    ("a/b", ["a/b"], ["ab"]),
    (r"a\/b", ["a/b"], ["a\\/b"]),
    ("a\nb", ["a\nb"], ["a b"]),
    ("(?i)abc", ["aBc"], ["abd"]),
    (r"[\]/-]+", ["]/-"], ["a"]),
    ("[[a]", ["[", "a"], ["b"]),
    (r"\d{2}", ["12"], ["٣٤"]),
    (".", ["a", "\r"], ["\n"]),
    ("é+🙂", ["éé🙂"], ["e"]),
    ("a|", ["a"], ["b"]),
    ("# // %json", ["# // %json"], []),
    ('"', ['"'], []),
]


@pytest.mark.parametrize(("pattern", "accepted", "forbidden"), REGEXES)
def test_regex(vocabulary, pattern, accepted, forbidden):
    matcher = matcher_for(vocabulary, "regex", pattern)
    for text in accepted:
        assert is_accepted(matcher, text, vocabulary), text
    for text in forbidden:
        assert not is_accepted(matcher, text, vocabulary), text


def test_choices_are_exact(vocabulary):
    matcher = matcher_for(vocabulary, "choice", '["a.b", "q\\"\\\\/", "\\n\\u007f", "a", "a"]')
    for text in ("a.b", 'q"\\/', "\n\x7f", "a"):
        assert is_accepted(matcher, text, vocabulary), text
    for text in ("axb", "", "a.", "b"):
        assert not is_accepted(matcher, text, vocabulary), text


def test_schema_inside_a_lark_grammar_is_checked(vocabulary):
    matcher = matcher_for(vocabulary, "lark", 'start: "x" %json {"properties": {"not": {}}} "y"')
    assert is_accepted(matcher, 'x{"not": 1}y', vocabulary)
    assert not is_accepted(matcher, 'x{"not":  1}y', vocabulary)
    with pytest.raises(GrammarError, match="the keyword `not`"):
        compile_constraint(Constraint("lark", 'start: "x" %json {"not": {}} "y"'))


def test_directives_in_comments_and_literals_are_text(vocabulary):
    grammar = 'start: "%json {" /%json \\{/ // %json {"not": {}} %llguidance {}\n'
    assert is_accepted(matcher_for(vocabulary, "lark", grammar), "%json {%json {", vocabulary)


def test_gbnf(vocabulary):
    grammar = 'root ::= "a" digits | "b"\ndigits ::= [0-9]+'
    matcher = matcher_for(vocabulary, "lark", grammar)
    assert is_accepted(matcher, "a12", vocabulary)
    assert not is_accepted(matcher, "a", vocabulary)


def test_grammar_can_name_a_special_token(vocabulary):
    matcher = matcher_for(vocabulary, "lark", 'start: "a" <|im_end|> "b"')
    feed(matcher, "a")
    assert allowed_ids(matcher, vocabulary) == [IM_END]


def test_marker_is_a_special_token_or_a_text(vocabulary):
    grammar = f"start: {marker('<think>')} {marker('[x]')}"
    matcher = matcher_for(vocabulary, "lark", grammar)
    assert allowed_ids(matcher, vocabulary) == [THINK]
    matcher.accept(THINK)
    feed(matcher, "[x]")
    assert matcher.is_finished


def test_client_cannot_hide_a_marker_in_a_literal(vocabulary):
    matcher = matcher_for(vocabulary, "lark", 'start: /⟪"<think>"⟫/')
    assert allowed_tokens(matcher, vocabulary) == {"⟪".encode()[:1]}


def test_check_needs_no_other_state(vocabulary):
    check_grammar('start: "a"', vocabulary)
    with pytest.raises(GrammarError, match="unknown name"):
        check_grammar("start: other", vocabulary)
