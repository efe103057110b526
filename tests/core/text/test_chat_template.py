"""Chat templates: the files they are read from, continued messages, and errors."""

import json

import pytest

from tgi.errors import ModelError, TemplateError
from tgi.text import ChatTemplate, ChatTemplateRenderer
from tgi.text.chat_template_language import CompiledTemplate

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


def render(source, messages=USER, tools=None):
    return CompiledTemplate.compile(source).render(messages, tools, {"bos_token": "<s>"})


def write(path, **files):
    for name, content in files.items():
        file_name = name.replace("_jinja", ".jinja") if name.endswith("_jinja") else f"{name}.json"
        (path / file_name).write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_parts_are_joined_unless_the_template_accepts_parts():
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    assert render(CHATML, parts) == "<s><|user|>ab\n<|assistant|>"
    takes_parts = (
        "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}"
    )
    assert render(takes_parts, parts) == "[a][b]"


def test_a_last_assistant_message_is_continued():
    messages = [*USER, {"role": "assistant", "content": " Well, "}]
    assert render(CHATML, messages) == "<s><|user|>hi\n<|assistant|> Well, "
    trimmed = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"
    assert render(trimmed, messages) == "[hi][Well,"


def test_no_marker_is_left_if_a_message_is_shown_twice():
    messages = [*USER, {"role": "assistant", "content": "Well,"}]
    assert (
        render(
            "{{ messages[-1].content }}#{% for m in messages %}{{ m.content }}{% endfor %}.",
            messages,
        )
        == "Well,#hiWell,"
    )


def test_a_message_that_is_not_shown_cannot_be_continued():
    messages = [*USER, {"role": "assistant", "content": "Well,"}]
    with pytest.raises(
        TemplateError, match="does not show the last assistant message, so it cannot be continued"
    ):
        render("{{ messages[0].content }}", messages)


def test_a_blank_message_is_not_continued():
    messages = [*USER, {"role": "assistant", "content": " "}]
    assert render(CHATML, messages) == "<s><|user|>hi\n<|assistant|> \n<|assistant|>"


def test_output_above_the_length_limit_is_an_error():
    wide = "{% set x = 'a' * 99999 %}{% for i in range(9999) %}{{ x }}{% endfor %}"
    with pytest.raises(TemplateError, match="longer than 64000000 characters"):
        render(wide)


def test_the_order_of_template_files(tmp_path):
    def default():
        return ChatTemplate.load(tmp_path).sources["default"]

    assert ChatTemplate.load(tmp_path) is None
    write(tmp_path, processor_config={"chat_template": "processor"})
    assert default() == "processor"
    write(tmp_path, tokenizer_config={"chat_template": "config", "eos_token": {"content": "</s>"}})
    assert default() == "config"
    assert ChatTemplate.load(tmp_path).special_tokens == {"eos_token": "</s>"}
    write(tmp_path, chat_template={"chat_template": "json"})
    assert default() == "json"
    write(tmp_path, chat_template_jinja="jinja")
    assert default() == "jinja"


def test_a_template_file_option_has_priority(tmp_path):
    write(tmp_path, chat_template_jinja="jinja")
    named = [
        {"name": "tool_use", "template": "t"},
        {"name": "default", "template": "mine"},
        {"name": 1},
    ]
    write(tmp_path, mine={"chat_template": named})
    assert ChatTemplate.load(tmp_path, tmp_path / "mine.json").sources == {
        "tool_use": "t",
        "default": "mine",
    }
    write(tmp_path, empty={})
    assert ChatTemplate.load(tmp_path, tmp_path / "empty.json").sources == {"default": "jinja"}


def test_the_template_for_tools():
    both = ChatTemplate({"default": "d", "tool_use": "t"}, {})
    assert (both.choose(has_tools=True), both.choose(has_tools=False)) == ("tool_use", "default")
    assert ChatTemplate({"default": "d"}, {}).choose(has_tools=True) == "default"
    assert ChatTemplate({"rag": "r"}, {}).choose(has_tools=False) is None


async def test_a_template_that_does_not_compile_fails_at_startup(tmp_path):
    write(tmp_path, chat_template_jinja="{% if %}")
    renderer = ChatTemplateRenderer(ChatTemplate.load(tmp_path))
    try:
        with pytest.raises(
            ModelError, match=r"the chat template does not compile: .* \(line 1\)\. Correct the"
        ):
            await renderer.start()
    finally:
        renderer.close()


async def test_without_a_default_template_there_is_no_template():
    renderer = ChatTemplateRenderer(ChatTemplate({"rag": "x"}, {}))
    with pytest.raises(TemplateError, match=r"^template not found$"):
        await renderer.render(USER)
    renderer.close()
