"""Templates: where they come from, what they may do, and what happens when they refuse."""

import datetime
import json

import pytest

from tgi.errors import ModelError, TemplateError
from tgi.text import ChatTemplate

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


def compile_template(source):
    return ChatTemplate.compile(source, {"bos_token": "<s>"})


def write(path, **files):
    for name, content in files.items():
        file = name.replace("_jinja", ".jinja") if name.endswith("_jinja") else f"{name}.json"
        (path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_conversation():
    assert compile_template(CHATML).render(USER) == "<s><|user|>hi\n<|assistant|>"


def test_parts_are_joined_unless_the_template_takes_them():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert compile_template(CHATML).render(parts) == "<s><|user|>ab\n<|assistant|>"
    takes_parts = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    assert compile_template(takes_parts).render(parts) == "[a][b]"


def test_a_last_assistant_message_is_continued():
    messages = [*USER, {"role": "assistant", "content": " Well, "}]
    assert compile_template(CHATML).render(messages) == "<s><|user|>hi\n<|assistant|> Well,"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{%- generation %}a{{ bos_token }}{% endgeneration -%} ", "a<s>"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ {'a': '<é>'} | tojson(indent=1) }}", '{\n "a": "<é>"\n}'),
        ("  {% if true %}\n  x\n  {% endif %}\n", "  x\n"),
        ("{{ none_such is defined }}{{ tools is none }}", "FalseTrue"),
    ],
)
def test_the_language(source, text):
    assert compile_template(source).render(USER) == text


def test_the_date():
    assert compile_template("{{ strftime_now('%Y') }}").render(USER) == str(datetime.datetime.now().astimezone().year)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].name.first }}", "has no attribute 'name'"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0]['content'][9] }}{{ messages[9].role }}", "has no element 9"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"),
        ("{% for i in range(99999999) %}x{% endfor %}", "Range too big"),
    ],
)
def test_a_refusal_is_a_sentence(source, sentence):
    with pytest.raises(TemplateError, match=sentence):
        compile_template(source).render(USER)


def test_output_without_end_is_stopped():
    wide = "{% set x = 'a' * 99999 %}{% for i in range(9999) %}{{ x }}{% endfor %}"
    with pytest.raises(TemplateError, match="longer than 64000000 characters"):
        compile_template(wide).render(USER)


def test_where_templates_come_from(tmp_path):
    assert ChatTemplate.load(tmp_path) is None
    write(tmp_path, processor_config={"chat_template": "processor"})
    assert ChatTemplate.load(tmp_path).render(USER) == "processor"
    write(tmp_path, tokenizer_config={"chat_template": "{{ eos_token }}", "eos_token": {"content": "</s>"}})
    assert ChatTemplate.load(tmp_path).render(USER) == "</s>"
    write(tmp_path, chat_template={"chat_template": "json"})
    assert ChatTemplate.load(tmp_path).render(USER) == "json"
    write(tmp_path, chat_template_jinja="jinja")
    assert ChatTemplate.load(tmp_path).render(USER) == "jinja"
    given = tmp_path / "mine.json"
    given.write_text(
        json.dumps({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "mine"}]})
    )
    assert ChatTemplate.load(tmp_path, given).render(USER) == "mine"


def test_a_template_that_does_not_compile_stops_the_start(tmp_path):
    write(tmp_path, chat_template_jinja="{% if %}")
    with pytest.raises(ModelError, match=r"the chat template does not compile: .* \(line 1\)"):
        ChatTemplate.load(tmp_path)
