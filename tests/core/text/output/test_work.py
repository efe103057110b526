"""The work of the parsers grows with the length of the output only, and does not depend on the
length of the text before a token.
"""

import pytest

from tests.core.text.output.parsing import style_of
from tests.core.text.output.samples import TEMPLATES, TOOLS, hermes
from tests.work_counter import count_calls, peak_bytes
from tgi.text.output import OutputParser

SHORT, LONG = 500, 2000
MAX_CALLS = 40  # per token, in a text or in a string
OUTPUTS = {
    "text": ("", " word"),
    "reasoning": ("<think>", " word"),
    "string": ('<tool_call>{"name": "now", "arguments": {"a": "', " word"),
    "escapes": ('<tool_call>{"name": "now", "arguments": {"a": "', "\\n"),
    "numbers": ('<tool_call>{"name": "now", "arguments": {"a": [1', ", 1"),
    "held": ('<tool_call>{"arguments": {"a": "', " word"),
    "almost a marker": ("", " <tool_"),
}


def parse(style, start, piece, count):
    parser = OutputParser(style)
    parser.push(start)
    for _ in range(count):
        parser.push(piece)
    parser.finish()


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_calls_per_token_are_constant(name):
    style = style_of("<tool_call> <think>", TOOLS)
    short, long = (
        count_calls(lambda count=count: parse(style, *OUTPUTS[name], count))
        for count in (SHORT, LONG)
    )
    per_token = (long - short) / (LONG - SHORT)
    print(f"{name}: {per_token} calls per token")
    assert per_token <= MAX_CALLS
    assert long <= LONG / SHORT * short * 1.1


def test_text_that_was_read_is_dropped():
    style = style_of("<tool_call> <think>", TOOLS)
    _, kept = peak_bytes(lambda: parse(style, "", " word" * 20, 20_000))
    assert kept < 100_000

    parser = OutputParser(style)

    def push():
        for _ in range(20_000):
            parser.push(" word" * 20)

    _, kept = peak_bytes(push)
    assert kept < 100_000  # the text has 2 MB


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_very_long_output_needs_no_recursion(name):
    parser = OutputParser(style_of(TEMPLATES[name], TOOLS))
    parser.push("[" * 100_000)
    parser.push('{"a":' * 100_000)
    parser.push("<" * 100_000)
    parser.finish()


def test_deep_arguments_need_no_recursion():
    depth = 50_000
    parser = OutputParser(style_of("<tool_call>", TOOLS))
    parser.push(hermes('{"a":' * depth + "1" + "}" * depth, "now"))
    parser.finish()
    assert parser.num_complete_calls == 1
