"""Options about reasoning in the bodies of all chat protocols."""

import pytest

from tests.core.server.chat.conftest import FORMATS, HI, PLAIN, THINKING
from tgi.errors import ValidationError

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
# Templates that print the variables that they use. `unset` is printed for a missing variable.
SWITCH = "{{ enable_thinking | default('unset') }}"
OTHER_SWITCH = "{{ thinking | default('unset') }}"
EFFORT = "{{ reasoning_effort | default('unset') }}"
BOTH = SWITCH + " " + EFFORT
VERBOSITY = "{{ verbosity | default('unset') }}"
ALWAYS = PLAIN + "<think>\n"


def effort_of(path, effort):
    match path:
        case "/v1/chat/completions":
            return {"reasoning_effort": effort}
        case "/v1/responses":
            return {"reasoning": {"effort": effort, "summary": "auto"}}
        case _:
            return {"output_config": {"effort": effort}}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    ("source", "effort", "prompt"),
    [
        (EFFORT, "high", "high"),
        (EFFORT, "xhigh", "xhigh"),
        (EFFORT, "none", "none"),
        (SWITCH, "low", "True"),
        (SWITCH, "none", "False"),
        (OTHER_SWITCH, "minimal", "True"),
        (OTHER_SWITCH, "none", "False"),
        (BOTH, "low", "True low"),
        (BOTH, "none", "False unset"),
        (PLAIN, "none", "user: hi\n"),
    ],
)
async def test_the_effort_sets_the_variables_of_the_template(convert, path, source, effort, prompt):
    request = await convert(path, source, **effort_of(path, effort))
    assert request.prompt == prompt


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (CHAT, "reasoning_effort"),
        (RESPONSES, "reasoning.effort"),
        (MESSAGES, "output_config.effort"),
    ],
)
async def test_an_effort_without_effect_is_rejected_by_name(convert, path, name):
    with pytest.raises(ValidationError) as caught:
        await convert(path, PLAIN, **effort_of(path, "low"))
    text = "is not supported by the chat template of this model: leave it out. Given: low"
    assert str(caught.value) == f"`{name}` {text}"
    with pytest.raises(ValidationError, match=f"`{name}` must be one of none, minimal, low"):
        await convert(path, EFFORT, **effort_of(path, "much"))


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    ("source", "fields", "prompt"),
    [
        (SWITCH, {}, "unset"),
        (SWITCH, {"enable_thinking": True}, "True"),
        (SWITCH, {"enable_thinking": False}, "False"),
        (OTHER_SWITCH, {"enable_thinking": False}, "False"),
        (SWITCH, {"chat_template_kwargs": {"enable_thinking": False}}, "False"),
        (
            SWITCH,
            {"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True},
            "True",
        ),
        ("{{ a.b[1] }}", {"chat_template_kwargs": {"a": {"b": [1, "x"]}, "unused": 1}}, "x"),
        (PLAIN, {"enable_thinking": False}, "user: hi\n"),
    ],
)
async def test_variables_reach_the_template(convert, path, source, fields, prompt):
    assert (await convert(path, source, **fields)).prompt == prompt


@pytest.mark.parametrize(
    "name", ["messages", "tools", "bos_token", "eos_token", "add_generation_prompt"]
)
async def test_variables_of_the_server_cannot_be_replaced(convert, name):
    with pytest.raises(ValidationError) as caught:
        await convert(CHAT, chat_template_kwargs={name: "x"})
    assert str(caught.value).startswith(f"`chat_template_kwargs` must not contain `{name}`")


async def test_variables_have_a_maximum_size(convert):
    text = "x" * (65_536 - len('{"a":""}'))
    await convert(CHAT, chat_template_kwargs={"a": text})
    with pytest.raises(ValidationError, match=r"at most 65536 bytes. Given: 65537$"):
        await convert(CHAT, chat_template_kwargs={"a": text + "x"})


async def test_integers_above_64_bits_are_rejected(make_client):
    body = {"messages": [HI], "chat_template_kwargs": {"a": 10**30}}
    async with make_client() as client:
        response = await client.post(CHAT, json=body)
    assert (response.status_code, response.json()["error_type"]) == (422, "template_error")


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (CHAT, {"thinking_token_budget": 7}, "thinking_token_budget"),
        (RESPONSES, {"thinking_token_budget": 7}, "thinking_token_budget"),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 7}}, "thinking"),
    ],
)
async def test_the_budget_limits_the_reasoning(convert, path, fields, name):
    request = await convert(path, ALWAYS, THINKING, **fields)
    assert (request.max_reasoning_tokens, request.is_guided) == (7, True)
    assert request.output_style.is_reasoning_open
    assert request.guided_field == name
    with pytest.raises(ValidationError) as caught:
        await convert(path, SWITCH, FORMATS, **fields)
    assert str(caught.value).startswith(f"`{name}` is not supported, because the server does not")


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (CHAT, {"enable_thinking": False}, "enable_thinking"),
        (CHAT, {"reasoning_effort": "none"}, "reasoning_effort"),
        (RESPONSES, {"reasoning": {"effort": "none"}}, "reasoning.effort"),
        (MESSAGES, {"thinking": {"type": "disabled"}}, "thinking"),
    ],
)
async def test_reasoning_that_the_template_cannot_disable_has_the_limit_0(
    convert, path, fields, name
):
    request = await convert(path, ALWAYS, THINKING, **fields)
    assert (request.max_reasoning_tokens, request.guided_field) == (0, name)
    switched = await convert(path, SWITCH, THINKING, **fields)
    assert (switched.prompt, switched.max_reasoning_tokens) == ("False", None)
    without = await convert(path, PLAIN, FORMATS, **fields)
    assert (without.max_reasoning_tokens, without.is_guided) == (None, False)


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (CHAT, {"enable_thinking": True}, "enable_thinking"),
        (RESPONSES, {"enable_thinking": True}, "enable_thinking"),
    ],
)
async def test_reasoning_cannot_be_enabled_without_a_format(convert, path, fields, name):
    assert (await convert(path, ALWAYS, THINKING, **fields)).max_reasoning_tokens is None
    with pytest.raises(ValidationError, match=f"^`{name}` is not supported, because the server"):
        await convert(path, PLAIN, FORMATS, **fields)


@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}])
async def test_the_model_may_decide(convert, thinking):
    request = await convert(MESSAGES, SWITCH, THINKING, thinking=thinking)
    assert (request.prompt, request.max_reasoning_tokens) == ("unset", None)


@pytest.mark.parametrize(
    ("thinking", "message"),
    [
        ({"type": "later"}, "`thinking` must have one of the types enabled, disabled, adaptive"),
        ({"type": "enabled"}, "`thinking.budget_tokens` must be a positive number"),
        ({"type": "enabled", "budget_tokens": 0}, "`thinking.budget_tokens` must be a positive"),
        ({"type": "enabled", "budget_tokens": True}, "`thinking.budget_tokens` must be a positive"),
        ({"type": "enabled", "budget_tokens": 1.5}, "`thinking.budget_tokens` must be a positive"),
        (
            {"type": "enabled", "budget_tokens": 20},
            "`max_tokens` must be greater than `thinking.budget_tokens`. Given: 20 and 20",
        ),
    ],
)
async def test_an_invalid_thinking_is_rejected(convert, thinking, message):
    with pytest.raises(ValidationError) as caught:
        await convert(MESSAGES, ALWAYS, THINKING, thinking=thinking)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("path", "name"), [(CHAT, "verbosity"), (RESPONSES, "text.verbosity")])
async def test_the_verbosity(convert, path, name):
    def fields(value):
        return {"verbosity": value} if path == CHAT else {"text": {"verbosity": value}}

    assert (await convert(path, VERBOSITY, **fields("low"))).prompt == "low"
    assert (await convert(path, PLAIN, **fields("medium"))).prompt == "user: hi\n"
    with pytest.raises(ValidationError, match=f"^`{name}` is not supported by the chat template"):
        await convert(path, PLAIN, **fields("low"))
    with pytest.raises(ValidationError, match=f"^`{name}` must be one of low, medium, high"):
        await convert(path, VERBOSITY, **fields("much"))


async def test_a_plain_model_has_no_limit(convert):
    request = await convert(CHAT, PLAIN, FORMATS)
    assert (request.max_reasoning_tokens, request.is_guided) == (None, False)
    assert request.output_style.is_plain
