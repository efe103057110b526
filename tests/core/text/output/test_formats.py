"""The choice of the formats from a chat template, and the style of the output for a request."""

import pytest

from tests.core.text.output.samples import CALLS, TOOLS
from tgi.errors import ConfigError
from tgi.text.output import (
    REASONING_PARSERS,
    TOOL_CALL_PARSERS,
    OutputFormats,
    ToolChoice,
)

# Characteristic lines of published chat templates.
TEMPLATES = [
    ("", "tgi", "none"),
    ("{{ messages[0].content }}", "tgi", "none"),
    (
        'return a json object within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": '
        "{%- set content = content.split('</think>')[-1] %}",
        "hermes",
        "think",
    ),
    ("{{- '<|python_tag|>' + tool_call.name + '.call(' }}", "llama3_json", "none"),
    ('{{- "Environment: ipython\\n" }}', "llama3_json", "none"),
    ("{{- '[TOOL_CALLS][' }}", "mistral", "none"),
    ("[THINK] [TOOL_CALLS] + name + [ARGS]", "mistral", "mistral"),
    (f"'{CALLS}' ```json </think>", "deepseek_v3", "think"),
    ("<|tool_call|> Here is my thought process: x Here is my response:", "granite", "granite"),
    ("<tool_call>{{ tc.name }} <arg_key> <think>", "glm45", "think"),
    ("<|channel|>analysis<|message|>", "gpt_oss", "gpt_oss"),
]


@pytest.mark.parametrize(("template", "tool_calls", "reasoning"), TEMPLATES)
def test_the_template_determines_the_formats(template, tool_calls, reasoning):
    formats = OutputFormats.detect(template, {})
    assert (formats.tool_call_parser, formats.reasoning_parser) == (tool_calls, reasoning)


@pytest.mark.parametrize("name", TOOL_CALL_PARSERS)
def test_an_option_determines_the_format_of_calls(name):
    formats = OutputFormats.detect("<tool_call>", {}, tool_call_parser=name)
    assert formats.tool_call_parser == ("hermes" if name == "auto" else name)


@pytest.mark.parametrize("name", REASONING_PARSERS)
def test_an_option_determines_the_format_of_reasoning(name):
    formats = OutputFormats.detect("<think>", {}, reasoning_parser=name)
    assert formats.reasoning_parser == ("think" if name == "auto" else name)


@pytest.mark.parametrize("option", ["tool_call_parser", "reasoning_parser"])
def test_an_unknown_parser_is_rejected(option):
    with pytest.raises(
        ConfigError, match=f"--{option.replace('_', '-')}` must be one of auto, none"
    ):
        OutputFormats.detect("", {}, **{option: "other"})


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<think>", True),
        ("<think>\n\n</think>\n\n", False),
        ("user: what is <think>?\nassistant:", False),
    ],
)
def test_the_prompt_determines_whether_the_reasoning_is_open(prompt, is_open):
    style = OutputFormats.detect("<think>", {}).for_request((), prompt)
    assert style.is_reasoning_open is is_open
    assert not style.is_plain
    assert OutputFormats.detect("", {}).for_request((), prompt).is_plain


def test_markers_are_the_tokens_that_the_parser_needs():
    formats = OutputFormats.detect("[THINK] [TOOL_CALLS]", {})
    assert formats.for_request((), "").markers == {"[THINK]", "[/THINK]"}
    assert formats.for_request(TOOLS, "").markers > {"[THINK]", "[/THINK]", "[TOOL_CALLS]"}


def test_a_marker_in_the_grammar_is_a_special_token_if_there_is_one():
    for ids, expected in (({"[TOOL_CALLS]": 7}, "<[7]>"), ({}, '"[TOOL_CALLS]"')):
        tool_format = OutputFormats.detect("[TOOL_CALLS]", ids).tool_format
        constraint = tool_format.constraint(TOOLS, ToolChoice.REQUIRED, is_parallel=True)
        assert constraint.kind == "lark"
        assert expected in constraint.value
