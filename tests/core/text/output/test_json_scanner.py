"""The JSON scanner, compared with the parser of the standard library."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi.text.output.json_scanner import JsonScanner, complete_members

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FRAGMENTS = st.lists(
    st.sampled_from(
        [*'{}[]",:0123456789.+-eE\\ \n\t', "true", "false", "null", "\\u00", "a", "\\n", '"a":']
    ),
    max_size=12,
).map("".join)


def scan(pieces):
    """The number of characters of the value, and whether it is complete."""
    scanner, length = JsonScanner(), 0
    for piece in pieces:
        end = scanner.push(piece)
        length += end
        if end < len(piece) or scanner.is_complete:
            break
    return length, scanner.is_complete, scanner.is_invalid


def is_json(text):
    try:
        # A name such as `NaN` is not a number.
        json.loads(text, parse_constant=int)
    except ValueError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(value=VALUES, is_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_every_value_is_complete_at_its_end(value, is_ascii, indent):
    text = json.dumps([value], ensure_ascii=is_ascii, indent=indent)
    for pieces in ([text], text, [text[: len(text) // 2], text[len(text) // 2 :]]):
        assert scan(pieces) == (len(text), True, False)
    assert scan([text + "x"]) == (len(text), True, False)
    assert scan([text[:-1]]) == (len(text) - 1, False, False)


@settings(max_examples=500, deadline=None)
@given(inner=FRAGMENTS)
def test_a_text_is_complete_only_if_it_is_json(inner):
    text = f"[{inner}]"
    length, is_complete, _ = scan([text])
    assert scan(text)[:2] == (length, is_complete)
    if is_json(text):
        assert (length, is_complete) == (len(text), True)
    elif is_complete:
        assert length < len(text)
        assert is_json(text[:length])


@pytest.mark.parametrize(
    "text",
    [
        *("[01]", "[-]", "[1.]", "[.5]", "[1e]", "[+1]", "[1e+]", "[--1]", "[1.2.3]"),
        *("[tru]", "[truee]", "[nul,", "[True]", "[NaN]", "[Infinity]", "['a']"),
        *('{"a"}', '{"a":}', "{a:1}", '{"a":1,}', "[1,]", "[,]", "[1 2]", "{1:2}", "[}", "{]"),
        *('["\\x"]', '["\\u12g4"]', '["a\nb"]', "]", ",", "}"),
    ],
)
def test_invalid_text_is_rejected(text):
    assert not is_json(text)
    _, is_complete, is_invalid = scan([text])
    assert is_invalid
    assert not is_complete


@pytest.mark.parametrize(
    ("text", "num_open"),
    [
        ('["a', 0),
        ('["a\\', 1),
        ('["a\\n', 0),
        ('["\\u', 2),
        ('["\\u00e', 5),
        ('["\\u00e9', 0),
        ('["\\ud83d', 6),
        ('["\\ud83d\\', 7),
        ('["\\ud83d\\ude0', 11),
        ('["\\ud83d\\ude00', 0),
        ('["\\ud83dx', 0),
        ('["\\ud83d"', 0),
        ('["\\ud83d\\n', 0),
    ],
)
def test_the_characters_of_an_incomplete_escape_sequence_are_counted(text, num_open):
    for pieces in ([text], text):
        scanner = JsonScanner()
        for piece in pieces:
            scanner.push(piece)
        assert scanner.num_open == num_open


def test_deep_nesting_needs_no_recursion():
    depth = 100_000
    assert scan(["[" * depth, "]" * depth]) == (2 * depth, True, False)


@settings(max_examples=100, deadline=None)
@given(value=st.dictionaries(st.text(), VALUES, max_size=3), data=st.data())
def test_the_complete_members_of_a_cut_object_are_an_object(value, data):
    text = json.dumps(value)
    assert complete_members(text) == text
    cut = text[: data.draw(st.integers(1, len(text)))]
    members = json.loads(complete_members(cut))
    assert list(members.items()) == list(value.items())[: len(members)]
    ends = [len(json.dumps(dict(list(value.items())[:k]))) - 1 for k in range(len(value) + 1)]
    # A number is complete when the character after it is known.
    assert sum(end < len(cut) for end in ends[1:]) <= len(members)
    assert len(members) <= sum(end <= len(cut) for end in ends[1:])
