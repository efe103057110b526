"""The parsers of all formats: their parts, which do not depend on the division of the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.text.output.parsing import items_of, parts_of, style_of
from tests.core.text.output.samples import TEMPLATES, TOOLS, WEATHER
from tests.core.text.output.transcripts import TRANSCRIPTS

CASES = [
    pytest.param(name, output, expected, id=f"{name}-{number}")
    for name, transcripts in TRANSCRIPTS.items()
    for number, (output, expected) in enumerate(transcripts)
]


@pytest.mark.parametrize(("name", "output", "expected"), CASES)
def test_an_output_is_split_into_its_parts(name, output, expected):
    style = style_of(TEMPLATES[name], TOOLS)
    assert items_of(parts_of(style, [output])) == expected
    assert items_of(parts_of(style, output)) == expected  # character by character
    for place in range(1, len(output)):
        pieces = [output[:place], output[place:]]
        assert items_of(parts_of(style, pieces)) == expected, place


@pytest.mark.parametrize("name", TRANSCRIPTS)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_random_text_is_never_lost_and_raises_no_error(name, data):
    """Random sequences of the markers and the text of a format."""
    words = sorted({word for output, _ in TRANSCRIPTS[name] for word in words_of(output)})
    chosen = data.draw(st.lists(st.sampled_from(words), max_size=12))
    style = style_of(TEMPLATES[name], TOOLS)
    whole = items_of(parts_of(style, ["".join(chosen)]))
    assert items_of(parts_of(style, chosen)) == whole
    if not any(item[0] in ("call", "cut", "reasoning") for item in whole) and name != "gpt_oss":
        assert "".join(item[1] for item in whole) == "".join(chosen)


def words_of(output):
    """Pieces of a transcript at its brackets and quotes."""
    word = ""
    for character in output:
        word += character
        if character in '<>{}[]"|,: ':
            yield word
            word = ""
    yield word


THINK = "<think>"
REASONING = [
    ("think", "", "<think>\nHm.\n</think>\n\nHi.", [("reasoning", "Hm."), ("text", "Hi.")]),
    ("think", "", "\n<think>Hm.</think>", [("reasoning", "Hm.")]),
    (
        "think",
        "<think>\n",
        "Hm.\n\nSo.</think>Hi.\n",
        [("reasoning", "Hm.\n\nSo."), ("text", "Hi.\n")],
    ),
    ("think", "<think>", "<think>Hm.</think>Hi.", [("reasoning", "Hm."), ("text", "Hi.")]),
    ("think", "<think>", "\nHm.", [("reasoning", "Hm.")]),
    ("think", "<think>", "</think>Hi.", [("text", "Hi.")]),
    ("think", "<think>\n\n</think>\n\n", "Hi.", [("text", "Hi.")]),
    ("think", "", "Hi. <think>no</think>", [("text", "Hi. <think>no</think>")]),
    ("think", "", "Hi.</think>", [("text", "Hi.</think>")]),
    ("think", "", " <thin", [("text", " <thin")]),
    ("think", "", "<think>a</thin", [("reasoning", "a</thin")]),
    ("think", "", "<think></think> ", []),
    ("mistral", "", "[THINK]Hm.[/THINK]Hi.", [("reasoning", "Hm."), ("text", "Hi.")]),
    (
        "granite",
        "",
        "Here is my thought process:\nHm.\n\nHere is my response:\nHi.",
        [("reasoning", "Hm."), ("text", "Hi.")],
    ),
    (
        "granite",
        "",
        "Here's my thought process: Hm. Here is my response: Hi.",
        [("reasoning", "Hm."), ("text", "Hi.")],
    ),
    ("gpt_oss", "", "<|channel|>analysis<|message|>Hm.", [("reasoning", "Hm.")]),
    (
        "gpt_oss",
        "<|channel|>analysis<|message|>",
        "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
        [("reasoning", "Hm."), ("text", "Hi.")],
    ),
]


@pytest.mark.parametrize(("name", "prompt", "output", "expected"), REASONING)
def test_reasoning_is_separated_from_the_text(name, prompt, output, expected):
    style = style_of("", (), prompt, reasoning_parser=name)
    assert items_of(parts_of(style, [output])) == expected
    for place in range(1, len(output)):
        assert items_of(parts_of(style, [output[:place], output[place:]])) == expected
    assert items_of(parts_of(style, output)) == expected


@pytest.mark.parametrize("name", [name for name in TRANSCRIPTS if name != "gpt_oss"])
def test_calls_follow_the_reasoning(name):
    style = style_of(TEMPLATES[name], TOOLS, reasoning_parser="think")
    for output, expected in TRANSCRIPTS[name]:
        if any(item[0] == "call" for item in expected):
            # The whitespace after the end tag belongs to the tag.
            first, *others = expected
            first = ("text", first[1].lstrip()) if first[0] == "text" else first
            found = items_of(parts_of(style, f"<think>a <tool_call> b</think>{output}"))
            assert found == [("reasoning", "a <tool_call> b"), first, *others]


def test_without_tools_calls_are_text():
    style = style_of("<tool_call>", ())
    assert style.is_plain
    output = TRANSCRIPTS["hermes"][4][0]
    style = style_of("<tool_call><think>", ())
    assert items_of(parts_of(style, output)) == [("text", output)]


def test_text_is_written_as_it_arrives():
    style = style_of("<think><tool_call>", TOOLS)
    pieces = ["<think>", "one", " two", "</think>", "three", "\n", "four", " <tool"]
    parts = parts_of(style, pieces)
    assert [part.text for part in parts] == ["one", " two", "three", "\nfour", " <tool"]


def test_arguments_are_written_as_they_arrive():
    style = style_of("<tool_call>", [WEATHER])
    pieces = [
        '<tool_call>{"name": "get_weather", "arguments": {"',
        'city": "P',
        "ar",
        "is\\",
        'n"}}',
    ]
    arguments = [part.text for part in parts_of(style, pieces) if hasattr(part, "text")]
    assert arguments == ['{"', 'city": "P', "ar", "is", '\\n"}']
