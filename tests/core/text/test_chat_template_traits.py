"""Properties of chat templates: their variables, and the data that they need."""

import pytest

from tgi.text.chat_template_traits import TemplateTraits


@pytest.mark.parametrize(
    ("source", "is_used"),
    [
        ("{% if tools %}x{% endif %}", True),
        ("{%- for t in tools -%}{%- endfor -%}", True),
        ("{{ tools | tojson }}", True),
        ("{{ {'a': {'b': tools}} }}", True),
        ("{% set tools = none %}", True),
        ("tools", False),
        ("{# tools #}", False),
        ("{{ 'tools' }}", False),
        ('{{ "it\'s tools" }}', False),
        ("{{ message.tools }}", False),
        ("{{ message . tools }}", False),
        ("{{ message['tools'] }}", False),
        ("{{ builtin_tools }}", False),
        ("it's {{ tools }}", True),
        ("{{ 'a \\' }} ' }}{{ 'tools' }}", False),
        ("{{ 'no end }} tools", False),
        ("{% if tools", True),
        ("", False),
    ],
)
def test_variables_of_a_template(source, is_used):
    assert TemplateTraits.of(source).uses("tools") is is_used


# Parts of published templates: Qwen 2.5, Llama 3.1, Mistral, DeepSeek R1 and GLM 4.5.
QWEN = "{{- tool_call.arguments | tojson }}"
LLAMA = "{{- '\"parameters\": ' }}{{- tool_call.arguments | tojson }}"
MISTRAL = (
    "{%- if not tool_call.id is defined or tool_call.id|length != 9 %}"
    '{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif'
    " %}{{- tool_call.function|tojson }}"
)
DEEPSEEK = (
    "{%- if message['role'] == 'assistant' and message['content'] is none %}{{'```json' + '\\n' +"
    " tool['function']['arguments'] + '\\n' + '```'}}{%- endif %}"
)
GLM = "{% set _args = tc.arguments %}{% for k, v in _args.items() %}{{ k }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "joins", "tests", "short"),
    [
        (QWEN, False, False, False),
        (LLAMA, False, False, False),
        (MISTRAL, False, False, True),
        (DEEPSEEK, True, True, False),
        (GLM, False, False, False),
        ("{{ 'a' + call.arguments }}", True, False, False),
        ("{{ 'a' + call.arguments | tojson }}", False, False, False),
        ("{% if message.content is string %}{% endif %}", False, True, False),
    ],
)
def test_data_that_a_template_needs(source, joins, tests, short):
    traits = TemplateTraits.of(source)
    assert traits.joins_arguments is joins
    assert traits.tests_content is tests
    assert traits.needs_short_ids is short


def test_a_hostile_template_is_read_in_linear_work():
    for source in ("{{ '" + "\\'" * 200_000, "{{ " * 200_000, "{{" + "(" * 400_000):
        assert not TemplateTraits.of(source).uses("tools")
