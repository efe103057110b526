"""Incremental search for stop strings, compared with a search in the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.text import StoppingCriteria

letters = st.text("abc", max_size=30)
stops = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4)


def cut(text, data):
    position = 0
    while position < len(text):
        size = data.draw(st.integers(1, len(text) - position))
        yield text[position : position + size]
        position += size


def first_match(text, stops):
    """Return (end, -length) of the stop string that ends first, and the longest if several end at
    the same place.
    """
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    return min(ends) if ends else None


@given(letters, stops, st.data())
def test_the_first_stop_is_found_for_any_pieces(text, stops, data):
    criteria, before, found = StoppingCriteria(stops), 0, None
    for piece in cut(text, data):
        match = criteria.push(piece)
        if match is not None:
            found = (before + match.end, -len(match.stop))
            break
        before += len(piece)
        held = text[before - criteria.num_held : before]
        assert held == "" or any(stop.startswith(held) for stop in stops)
        # No stop string can begin in the text that has been released.
        shown = text[: before - criteria.num_held]
        assert not any(
            before > i and stop.startswith(text[i:before])
            for i in range(len(shown))
            for stop in stops
        )
    assert found == first_match(text, stops)


def test_an_empty_stop_matches_at_once():
    match = StoppingCriteria([""]).push("abc")
    assert (match.end, match.stop) == (3, "")


@pytest.mark.parametrize(
    ("stop", "text", "matches"),
    [("<|im_end|>", "<|im_end|>", True), ("x", "</s>", False), ("", "</s>", False)],
)
def test_text_of_special_tokens(stop, text, matches):
    assert StoppingCriteria([stop]).matches_special(text) is matches
