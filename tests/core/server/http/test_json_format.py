"""The JSON format of numbers and strings."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi.server.http.json_format import (
    format_f32,
    format_f64,
    format_plain,
    format_string,
    round_f32,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (-0.34, "-0.34"),
        (16777216.0, "16777216.0"),
        (1e-5, "0.00001"),
        (1e-6, "0.000001"),
        (5e-7, "5e-7"),
        (-1.1920929e-7, "-1.1920929e-7"),
        (9.9e12, "9900000000000.0"),
        (1e13, "1e13"),
        (1.2345679e14, "1.2345679e14"),
        (None, "null"),
        (float("nan"), "null"),
        (float("-inf"), "null"),
    ],
)
def test_f32_is_formatted_as_by_serde(value, text):
    assert format_f32(value) == text


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_formatted_f32_parses_to_the_same_number(value):
    text = format_f32(value)
    assert np.float32(json.loads(text)) == np.float32(value)
    assert "." in text or "e" in text
    assert "e+" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0, "-0.0"),
        (1e-5, "0.00001"),
        (1.5e-5, "0.000015"),
        (9.5e-6, "9.5e-6"),
        (9e15, "9000000000000000.0"),
        (1e16, "1e16"),
        (2.0**64, "1.8446744073709552e19"),
    ],
)
def test_f64_is_formatted_as_by_serde(value, text):
    assert format_f64(value) == text


def test_f32_out_of_range_is_infinite():
    assert round_f32(1e39) == float("inf")
    assert round_f32(0.1) == float(np.float32(0.1))


def test_plain_numbers_have_no_exponent():
    assert [format_plain(v) for v in (0, 1, 0.25, 1e-7, 0.0001 * 1.5)] == [
        "0",
        "1",
        "0.25",
        "0.0000001",
        "0.00015000000000000001",
    ]


def test_only_quotes_backslashes_and_controls_are_escaped():
    assert format_string('é"\\\n\x1f\x7f</') == '"é\\"\\\\\\n\\u001f\x7f</"'
