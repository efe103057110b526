"""Tests of the reasoning before a grammar: tags, the maximum length and the text after it."""

import random

import pytest

from tests.core.grammar.walks import (
    END_THINK,
    EOS,
    THINK,
    allowed_ids,
    allowed_tokens,
    feed,
    matcher_for,
)
from tgi.grammar.constraint import GrammarError
from tgi.grammar.matcher import Matcher
from tgi.grammar.vocabulary import Vocabulary
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.types import Guidance, ReasoningLimits


def limits(max_tokens=-1, *, is_open=False):
    return ReasoningLimits("<think>", "</think>", is_open, max_tokens)


def free(vocabulary, **options):
    return Matcher(vocabulary, Guidance("", limits(**options)))


def test_output_begins_with_the_tag_or_the_grammar(vocabulary):
    matcher = matcher_for(vocabulary, "choice", '["yes", "no"]', limits())
    assert allowed_tokens(matcher, vocabulary) == {b"y", b"n", b"<", b"<think>"}
    feed(matcher, "yes")
    assert matcher.is_finished


@pytest.mark.parametrize("tag", [[THINK], [*b"<think>"], [*b"<", 256 + 5 + 5, *b">"]])
def test_grammar_begins_after_the_reasoning(vocabulary, tag):
    matcher = matcher_for(vocabulary, "choice", '["yes", "no"]', limits())
    for token_id in tag:
        assert token_id in allowed_ids(matcher, vocabulary)
        matcher.accept(token_id)
    feed(matcher, "I think </thin so")
    assert EOS not in allowed_ids(matcher, vocabulary)
    feed(matcher, "</think>")
    assert allowed_tokens(matcher, vocabulary) == {b"y", b"n"}
    feed(matcher, "no")
    assert matcher.is_finished
    assert not matcher.error


def test_grammar_that_begins_like_the_tag(vocabulary):
    start = matcher_for(vocabulary, "choice", '["<title>", "x"]', limits())
    matcher = start.copy()
    feed(matcher, "<t")
    assert allowed_tokens(matcher, vocabulary) == {b"i", b"h"}
    feed(matcher, "itle>")
    assert matcher.is_finished
    matcher = start.copy()
    feed(matcher, "<th")
    assert allowed_tokens(matcher, vocabulary) == {b"i"}
    matcher.accept(EOS)
    assert matcher.error
    matcher = start.copy()
    feed(matcher, "<think></think>")
    assert allowed_tokens(matcher, vocabulary) == {b"<", b"x"}


def test_no_token_contains_the_end_of_the_reasoning_and_a_part_of_the_text(vocabulary):
    matcher = matcher_for(vocabulary, "choice", '["yes"]', limits(is_open=True))
    assert b">x" in allowed_tokens(matcher, vocabulary)
    feed(matcher, "</think")
    assert {b">x", b">\n\n"} & allowed_tokens(matcher, vocabulary) == set()
    assert b">" in allowed_tokens(matcher, vocabulary)


@pytest.mark.parametrize("budget", range(6))
def test_maximum_length(vocabulary, budget):
    matcher = free(vocabulary, max_tokens=budget, is_open=True)
    feed(matcher, "x" * budget)
    assert allowed_ids(matcher, vocabulary) == [END_THINK]
    matcher.accept(END_THINK)
    assert not matcher.error
    assert EOS not in allowed_ids(matcher, vocabulary)


def test_rest_of_a_begun_closing_tag_is_forced(vocabulary):
    matcher = free(vocabulary, max_tokens=3, is_open=True)
    feed(matcher, "x</")
    forced = []
    while len(ids := allowed_ids(matcher, vocabulary)) == 1:
        forced += ids
        matcher.accept(ids[0])
    assert b"".join(vocabulary.table.tokens[number] for number in forced) == b"think>"
    assert len(forced) == 2


def test_tokens_after_the_start_tag_are_counted(vocabulary):
    matcher = free(vocabulary, max_tokens=2)
    assert EOS not in allowed_ids(matcher, vocabulary)
    feed(matcher, "\n<think>ab")
    assert matcher.is_constrained
    assert allowed_ids(matcher, vocabulary) == [END_THINK]


def test_other_token_than_the_forced_one_is_an_error(vocabulary):
    matcher = free(vocabulary, max_tokens=0, is_open=True)
    feed(matcher, "x")
    assert "maximum number of tokens" in matcher.error


def test_text_is_not_empty(vocabulary):
    matcher = free(vocabulary, is_open=True)
    feed(matcher, "hm</think>")
    for text in ("", "\n", " "):
        feed(matcher, text)
        assert matcher.is_constrained
        assert EOS not in allowed_ids(matcher, vocabulary)
    feed(matcher, "4")
    assert not matcher.is_constrained
    matcher.accept(EOS)
    assert not matcher.error


def test_output_without_reasoning_is_not_empty(vocabulary):
    for begin in ("", "\n"):
        matcher = free(vocabulary, max_tokens=3)
        feed(matcher, begin)
        assert matcher.is_constrained
        assert EOS not in allowed_ids(matcher, vocabulary)
        assert THINK in allowed_ids(matcher, vocabulary)
        feed(matcher, "4")
        assert not matcher.is_constrained
        matcher.accept(EOS)
        assert not matcher.error
        matcher = free(vocabulary, max_tokens=3)
        feed(matcher, begin)
        matcher.accept(EOS)
        assert matcher.error


@pytest.mark.parametrize("text", ["hm", "hm</think>", "hm</think>\n"])
def test_eos_before_the_text_is_an_error(vocabulary, text):
    matcher = free(vocabulary, is_open=True)
    feed(matcher, text)
    matcher.accept(EOS)
    assert matcher.error


def test_grammar_may_not_be_empty_after_the_reasoning(vocabulary):
    matcher = matcher_for(vocabulary, "regex", "a*", limits(is_open=True))
    feed(matcher, "</think>")
    assert allowed_ids(matcher, vocabulary) == [ord("a")]
    feed(matcher, "a")
    assert EOS in allowed_ids(matcher, vocabulary)


def test_later_tags_are_text(vocabulary):
    matcher = free(vocabulary)
    feed(matcher, "x<think>")
    assert not matcher.is_constrained


def test_tag_that_repeats_its_beginning(vocabulary):
    reasoning = ReasoningLimits("aab", "aab", True)
    matcher = matcher_for(vocabulary, "choice", '["c"]', reasoning)
    feed(matcher, "aaa")
    assert b"ab" not in {
        token[:2] for token in allowed_tokens(matcher, vocabulary) if token > b"ab"
    }
    feed(matcher, "b")
    assert allowed_tokens(matcher, vocabulary) == {b"c"}


def test_tag_that_the_tokens_cannot_express():
    vocabulary = Vocabulary(VocabularyData([b"a", b"<eos>"], [1], (1,), 2))
    with pytest.raises(GrammarError, match="cannot express the tag '</think>'"):
        Matcher(vocabulary, Guidance("", limits(is_open=True)))


@pytest.mark.parametrize("is_open", [True, False])
def test_random_reasoning_keeps_its_maximum(vocabulary, is_open):
    """A random token at each position, for 1,000 sequences with a maximum of 0 to 9 tokens. The
    model begins the reasoning unless `is_open` is set.
    """
    numbers = random.Random(7)
    starts = {
        budget: matcher_for(vocabulary, "choice", '["yes"]', limits(budget, is_open=is_open))
        for budget in range(10)
    }
    for _ in range(1000):
        budget = numbers.randrange(10)
        matcher = starts[budget].copy()
        feed(matcher, "" if is_open else "<think>")
        tokens = []
        while not matcher.is_finished:
            token_id = numbers.choice(allowed_ids(matcher, vocabulary))
            tokens.append(token_id)
            matcher.accept(token_id)
            assert not matcher.error
        text = b"".join(vocabulary.table.tokens[number] for number in tokens)
        reasoning, end, final = text.partition(b"</think>")
        assert (end, final) == (b"</think>", b"yes")
        assert budget or not reasoning
        assert len(tokens) <= budget + len(b"</think>") + len(b"yes")


@pytest.mark.parametrize(
    "tag", [[THINK], [*b"<think>"], [*b"\n<thi", ord("n"), ord("k"), ord(">")]]
)
def test_whole_closing_tag_follows_the_start_tag_if_no_reasoning_is_allowed(tag):
    """The closing tag has several tokens."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"<eos>", b"", b"<think>"]
    vocabulary = Vocabulary(VocabularyData(tokens, [EOS], (EOS,), len(tokens)))
    matcher = free(vocabulary, max_tokens=0)
    for token_id in tag:
        matcher.accept(token_id)
    for byte in b"</think>":
        assert allowed_ids(matcher, vocabulary) == [byte]
        matcher.accept(byte)
    assert not matcher.error
