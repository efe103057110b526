"""Every prompt equals the result of `transformers.apply_chat_template` for the same template and
messages, byte for byte.
"""

import datetime

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.core.text.chat_templates import (
    CONVERSATIONS,
    MEASURES_CONTENT,
    PARTS,
    TEMPLATES,
    TOOLS,
    USER,
    WITH_PARTS,
)
from tgi.errors import TemplateError
from tgi.text import ChatTemplate
from tgi.text.chat_template_messages import RenderTemplate
from tgi.text.chat_template_renderer import RenderLimits, TemplateProcess
from tgi.text.socket_frames import encode_frame

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LIMITS = RenderLimits(seconds=60.0)


@pytest.fixture(scope="module")
def theirs():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)


@pytest.fixture(scope="module")
def ours():
    process = TemplateProcess.start(ChatTemplate(TEMPLATES, TOKENS), LIMITS)
    yield process
    process.close()


TRANSFORMERS_MARKER = "CONTINUE_FINAL_MESSAGE_TAG"


def cases():
    for name, source in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            # transformers continues a message only if the template contains the word `content`.
            if conversation != "continued" or ("content" in source and name != MEASURES_CONTENT):
                yield pytest.param(name, conversation, id=f"{name}-{conversation}")


def reference(tokenizer, template, messages, tools, **variables):
    """Return the prompt from transformers, or None if it raises an error."""
    continues = bool(messages) and messages[-1]["role"] == "assistant"
    try:
        prompt = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            **variables,
        )
    except Exception:  # transformers raises Jinja's errors, ValueError and others.
        return None
    # transformers removes its marker only once. If a template shows the last message twice, the
    # prompt still contains the marker, which is a bug.
    return prompt.replace(f"{TRANSFORMERS_MARKER} ", "").replace(TRANSFORMERS_MARKER, "")


def rendered(process, name, messages, tools, **variables):
    try:
        return process.render(encode_frame(RenderTemplate(name, messages, tools, variables)))
    except TemplateError:
        assert process.is_usable, "a limit stopped the process"
        return None


def test_the_corpus_is_large_enough():
    assert len(TEMPLATES) >= 40


@pytest.mark.parametrize(("name", "conversation"), list(cases()))
def test_prompts_are_equal(ours, theirs, name, conversation):
    messages, tools = CONVERSATIONS[conversation]
    day = datetime.datetime.now().date()
    pair = (
        rendered(ours, name, messages, tools),
        reference(theirs, TEMPLATES[name], messages, tools),
    )
    if "date" in name and datetime.datetime.now().date() != day:
        pair = (
            rendered(ours, name, messages, tools),
            reference(theirs, TEMPLATES[name], messages, tools),
        )
    assert pair[0] == pair[1]


def test_most_of_the_corpus_renders(ours):
    """Two errors also count as equal prompts, so only few templates may fail."""
    failed = {name for name in TEMPLATES if rendered(ours, name, [USER], None) is None}
    assert failed == {"namespace underscore", "undefined attribute", "wrong types"}


@pytest.mark.parametrize("name", WITH_PARTS)
def test_parts_of_a_message(ours, theirs, name):
    continued = [USER, {"role": "assistant", "content": PARTS["content"]}]
    for messages in ([PARTS], continued):
        prompt = rendered(ours, name, messages, None)
        assert prompt is not None
        assert prompt == reference(theirs, TEMPLATES[name], messages, None)


def test_variables_of_the_request(ours, theirs):
    variables = {"date_string": "today", "bos_token": "<other>", "none_such": {"a": [1, None]}}
    for name in ("date unless given", "tokens"):
        assert rendered(ours, name, [USER], None, **variables) == reference(
            theirs, TEMPLATES[name], [USER], None, **variables
        )


def test_the_same_named_template_is_chosen(tmp_path, theirs):
    (tmp_path / "chat_template.jinja").write_text("default" + TEMPLATES["plain loop"])
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(
        "with tools" + TEMPLATES["tools"]
    )
    theirs.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    template = ChatTemplate.load(tmp_path)
    process = TemplateProcess.start(template, LIMITS)
    try:
        for tools in (None, [], TOOLS):
            prompt = rendered(process, template.choose(has_tools=tools is not None), [USER], tools)
            assert prompt is not None
            assert prompt == reference(tokenizer, None, [USER], tools)
    finally:
        process.close()
