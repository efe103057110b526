"""Tests of the pool that compiles grammars."""

import pytest

from tests.core.grammar.walks import allowed_tokens, feed
from tests.work_counter import calls_of
from tgi.grammar.constraint import GrammarError
from tgi.grammar.pool import MatcherPool
from tgi.types import Guidance, ReasoningLimits


@pytest.fixture
def pool(vocabulary):
    pool = MatcherPool(vocabulary, num_threads=2, capacity=2)
    yield pool
    pool.close()


def test_matchers_of_one_grammar_share_one_compilation(pool, vocabulary):
    futures = [pool.request(Guidance("start: /ab+/")) for _ in range(5)]
    matchers = [future.result(60) for future in futures]
    assert (pool.num_compiled, pool.num_hits) == (1, 4)
    feed(matchers[0], "a")
    assert allowed_tokens(matchers[0], vocabulary) == {b"b"}
    assert allowed_tokens(matchers[1], vocabulary) == {b"a", b"ab"}


def test_output_before_a_restart_is_replayed(pool, vocabulary):
    matcher = pool.request(Guidance("start: /ab+c/"), [*b"abb"]).result(60)
    assert not matcher.error
    assert b"c" in allowed_tokens(matcher, vocabulary)


@pytest.mark.parametrize("is_cached", [False, True])
def test_output_is_not_replayed_in_the_thread_of_the_caller(pool, is_cached):
    guidance = Guidance("start: /ab+c/")
    if is_cached:
        pool.request(guidance).result(60)
    requested = []
    num_calls = calls_of(
        lambda: requested.append(pool.request(guidance, [*b"abbb"])),
        {"tgi.grammar.matcher.Matcher.accept", "tgi.grammar.matcher.Matcher.copy"},
    )
    assert num_calls == 0
    assert not requested[0].result(60).error


def test_replays_with_one_thread_end(vocabulary):
    pool = MatcherPool(vocabulary, num_threads=1)
    try:
        futures = [pool.request(Guidance("start: /ab+c/"), [*b"ab"]) for _ in range(3)]
        assert [future.result(60).error for future in futures] == ["", "", ""]
        failed = pool.request(Guidance("start: other"), [1])
        with pytest.raises(GrammarError, match="unknown name"):
            failed.result(60)
    finally:
        pool.close()


def test_reasoning_is_a_part_of_the_key(pool):
    reasoning = ReasoningLimits("<think>", "</think>", True)
    pool.request(Guidance("start: /a/")).result(60)
    matcher = pool.request(Guidance("start: /a/", reasoning)).result(60)
    assert pool.num_compiled == 2
    feed(matcher, "hm")
    assert not matcher.error


def test_invalid_grammar_is_cached(pool):
    for _ in range(2):
        with pytest.raises(GrammarError, match="unknown name"):
            pool.request(Guidance("start: other")).result(60)
    assert pool.num_compiled == 1


def test_least_recently_used_grammar_is_removed(pool):
    grammars = [Guidance(f"start: /{letter}/") for letter in "abc"]
    for index in (0, 1, 0, 2, 0, 1):
        pool.request(grammars[index]).result(60)
    assert (pool.num_compiled, pool.num_hits) == (4, 2)


def test_grammar_without_free_lexer_states_is_compiled_again(pool, vocabulary):
    guidance = Guidance(r"start: /(.|\n)*a(.|\n){20}b/")
    matcher = pool.request(guidance).result(60)
    state = 1
    while not matcher.error:
        state = state * 48271 % 2147483647
        allowed_tokens(matcher, vocabulary)
        matcher.accept(ord("abcd"[state % 4]))
    other = pool.request(guidance).result(60)
    assert pool.num_compiled == 2
    assert allowed_tokens(other, vocabulary)
    assert not other.error


def test_cancelled_request_has_no_result(vocabulary):
    pool = MatcherPool(vocabulary, num_threads=1)
    future = pool.request(Guidance("start: /a/"))
    future.cancel()
    assert pool.request(Guidance("start: /a/")).result(60)
    pool.close()


def test_close_cancels_the_requests_that_wait(vocabulary):
    pool = MatcherPool(vocabulary, num_threads=1)
    futures = [pool.request(Guidance(f"start: /a{{{n}}}/")) for n in range(1, 100)]
    pool.close()
    for future in futures:
        assert future.cancelled() or future.result(60)
