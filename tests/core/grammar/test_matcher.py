"""Tests of matchers without reasoning: masks, EOS, the end of a grammar, errors and limits."""

from random import Random

import numpy as np
import pytest

from tests.core.grammar.walks import (
    EOS,
    IM_END,
    SECOND_EOS,
    allowed_ids,
    allowed_tokens,
    byte_vocabulary,
    feed,
    matcher_for,
)
from tgi.grammar.constraint import GrammarError
from tgi.grammar.limits import MAX_MASK_NS
from tgi.grammar.matcher import Matcher
from tgi.grammar.vocabulary import Vocabulary
from tgi.grammar.vocabulary_data import VocabularyData
from tgi.types import Guidance


def test_mask_allows_every_token_that_continues_the_text(vocabulary):
    matcher = matcher_for(vocabulary, "choice", '["abc", "a"]')
    assert allowed_tokens(matcher, vocabulary) == {b"a", b"ab"}


def test_end_allows_all_eos_tokens(vocabulary):
    matcher = matcher_for(vocabulary, "choice", '["abc", "a"]')
    feed(matcher, "a")
    assert allowed_ids(matcher, vocabulary) == [ord("b"), EOS, SECOND_EOS]
    assert not matcher.is_finished


@pytest.mark.parametrize("eos", [EOS, SECOND_EOS])
def test_complete_grammar_allows_only_eos(vocabulary, eos):
    matcher = matcher_for(vocabulary, "choice", '["abc"]')
    feed(matcher, "abc")
    assert matcher.is_finished
    assert allowed_ids(matcher, vocabulary) == [EOS, SECOND_EOS]
    matcher.accept(eos)
    assert matcher.is_finished
    assert not matcher.error


def test_accepted_eos_finishes_a_grammar_that_could_continue(vocabulary):
    matcher = matcher_for(vocabulary, "regex", "a+")
    feed(matcher, "a")
    matcher.accept(SECOND_EOS)
    assert matcher.is_finished
    assert not matcher.error


def test_eos_before_the_end_is_an_error(vocabulary):
    matcher = matcher_for(vocabulary, "regex", "ab")
    feed(matcher, "a")
    matcher.accept(EOS)
    assert "does not allow token 256" in matcher.error
    assert not matcher.is_finished


@pytest.mark.parametrize("token_id", [ord("x"), IM_END, 10_000, -1])
def test_token_outside_the_mask_is_an_error(vocabulary, token_id):
    matcher = matcher_for(vocabulary, "regex", "ab")
    matcher.accept(token_id)
    assert f"does not allow token {token_id} " in matcher.error
    assert allowed_ids(matcher, vocabulary)  # never empty
    assert f"does not allow token {token_id} " in matcher.error


def test_padding_ids_are_never_allowed(vocabulary):
    matcher = matcher_for(vocabulary, "regex", r"(.|\n)*")
    assert max(allowed_ids(matcher, vocabulary)) < 256 + 15


@pytest.mark.parametrize("size", [258, 288, 300])
def test_ids_beyond_the_model_are_cut(size):
    tokens = [bytes([byte]) for byte in range(256)] + [b"<eos>", b"ab", b"abc"] + [b"abcd"] * 60
    vocabulary = Vocabulary(VocabularyData(tokens, [256], (256, 1000), size))
    assert vocabulary.mask_width == -(-size // 32)
    matcher = matcher_for(vocabulary, "regex", "abcde")
    expected = [n for n in (97, 257, 258, *range(259, 319)) if n < size]
    assert allowed_ids(matcher, vocabulary) == expected


@pytest.mark.parametrize("num_padding", [0, 1, 17, 18])
def test_model_without_eos(num_padding):
    vocabulary = byte_vocabulary(num_padding, eos=())
    matcher = matcher_for(vocabulary, "choice", '["ab", "a"]')
    feed(matcher, "a")
    assert allowed_ids(matcher, vocabulary) == [ord("b")]
    feed(matcher, "b")
    assert matcher.is_finished
    assert allowed_ids(matcher, vocabulary)
    assert not matcher.error


def test_special_token_is_not_the_text_of_its_name(vocabulary):
    matcher = matcher_for(vocabulary, "json_schema", '{"type": "string"}')
    feed(matcher, '"')
    assert IM_END not in allowed_ids(matcher, vocabulary)
    feed(matcher, '<|im_end|>"')
    assert matcher.is_finished


def test_copies_are_independent(vocabulary):
    start = matcher_for(vocabulary, "regex", "ab|cd")
    first, second = start.copy(), start.copy()
    feed(first, "a")
    assert allowed_tokens(first, vocabulary) == {b"b"}
    assert allowed_tokens(second, vocabulary) == {b"a", b"ab", b"c"}


def test_no_grammar_needs_no_mask(vocabulary):
    matcher = Matcher(vocabulary, Guidance())
    assert not matcher.is_constrained
    feed(matcher, "anything")
    matcher.accept(EOS)
    assert not matcher.error


def test_total_time_of_the_masks_is_limited(vocabulary):
    ticks = iter(range(0, 100 * MAX_MASK_NS, MAX_MASK_NS // 2 + 1))
    matcher = Matcher(vocabulary, Guidance("start: /a+/"), clock=lambda: next(ticks))
    words = np.zeros(vocabulary.mask_width, np.int32)
    matcher.fill(words)
    assert not matcher.error
    matcher.fill(words)
    assert "took more than 1000 ms" in matcher.error


def test_lexer_with_too_many_states_ends_the_sequence(vocabulary, capfd):
    matcher = matcher_for(vocabulary, "regex", r"(.|\n)*a(.|\n){20}b")
    numbers = Random(3)
    for _ in range(10_000):
        assert allowed_ids(matcher, vocabulary)
        matcher.accept(ord(numbers.choice("abcd")))
    assert "16000 lexer states" in matcher.error
    assert matcher.has_exhausted_lexer
    assert capfd.readouterr() == ("", "")


def test_grammar_without_any_token_is_rejected():
    data = VocabularyData([b"a", b"<eos>"], [1], (1,), 2)
    with pytest.raises(GrammarError, match="allows no token"):
        matcher_for(Vocabulary(data), "regex", "b")


def test_dead_end_ends_the_sequence():
    vocabulary = Vocabulary(VocabularyData([b"a", b"<eos>"], [1], (1,), 2))
    matcher = matcher_for(vocabulary, "regex", "ab")
    matcher.accept(0)
    assert allowed_ids(matcher, vocabulary) == [1]
    assert "allows no token" in matcher.error
