"""The language of chat templates: Jinja with the settings of `transformers.apply_chat_template`.

Only the template process uses this module, because compiling an untrusted template already
evaluates its constant expressions.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, final

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tgi.errors import TemplateError

__all__ = ["MAX_RENDERED_CHARACTERS", "CompiledTemplate", "Message"]

Message = Mapping[str, Any]

MAX_RENDERED_CHARACTERS = 64_000_000
"""Maximum length of a rendered prompt in characters. If a prompt becomes longer, the rendering is
stopped with an error.
"""

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields in which clients send the reasoning of a message. Most templates read the first field, and
some templates read the second field.
"""

# A statement such as `{% if message['content'] is none %}`, as in DeepSeek's templates.
_NULL_CONTENT = re.compile(r"""\{%[^%]*content['"\]]*\s+is\s+(?:not\s+)?[nN]one\b""")

_CONTINUE_MARK = "THE_ANSWER_GOES_ON_HERE "
"""A mark that is appended to the message that the model continues. The rendered prompt is cut at
the mark. If the space at the end of the mark is missing in the prompt, the template strips
whitespace.
"""


@final
@dataclass(frozen=True)
class CompiledTemplate:
    """A compiled template."""

    template: jinja2.Template
    takes_parts: bool  # the template iterates over the parts of a message's content
    tests_null_content: bool = False  # the template tests if the content of a message is null

    @classmethod
    def compile(cls, source: str) -> CompiledTemplate:
        """Compile a source. Raises `jinja2.TemplateSyntaxError` if the source is invalid. For a
        malicious source this method may never return.
        """
        environment = _environment()
        takes_parts = any(
            _goes_through_content(loop) for loop in environment.parse(source).find_all(nodes.For)
        )
        tests_null = _NULL_CONTENT.search(source) is not None
        return cls(environment.from_string(source), takes_parts, tests_null)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[object] | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Render the prompt for the next message of the assistant. If the last message is from the
        assistant, the prompt ends with this message, so that the model continues the message.

        `variables` are additional variables of the template. Raises `TemplateError` if the prompt
        is too long or the last message cannot be continued. The template can raise any exception.
        """
        prepared = [self._prepared(message) for message in messages]
        open_text = _mark_open_message(prepared)
        fields = {"documents": None, **(variables or {})}
        text = self._rendered(
            fields
            | {
                "messages": prepared,
                "tools": tools,
                "add_generation_prompt": open_text is None,
            }
        )
        return text if open_text is None else _cut_at_mark(text, open_text)

    def _prepared(self, message: Message) -> dict[str, Any]:
        """Return the message in the form that templates expect. Fields that are null are removed,
        and the reasoning is stored under the names that templates use. The content of a message
        with tool calls remains null if a statement of the template tests for null. transformers
        removes it, and the calls are then missing in the prompt.
        """
        keeps_null = self.tests_null_content and message.get("tool_calls")
        fields = {
            name: value
            for name, value in message.items()
            if value is not None or (keeps_null and name == "content")
        }
        content = fields.get("content")
        if isinstance(content, list) and not self.takes_parts:
            fields["content"] = "".join(
                str(part.get("text", "")) for part in content if isinstance(part, dict)
            )
        reasoning = next((fields[name] for name in _REASONING_FIELDS if name in fields), None)
        return (
            fields
            if reasoning is None
            else {"thinking": reasoning, **fields, "reasoning_content": reasoning}
        )

    def _rendered(self, variables: Mapping[str, object]) -> str:
        pieces: list[str] = []
        num_characters = 0
        for piece in self.template.generate(variables):
            num_characters += len(piece)
            if num_characters > MAX_RENDERED_CHARACTERS:
                raise TemplateError(
                    f"the rendered prompt is longer than {MAX_RENDERED_CHARACTERS} characters"
                )
            pieces.append(piece)
        return "".join(pieces)


@final
class GenerationBlock(Extension):
    """The block `{% generation %} … {% endgeneration %}`, which marks text of the assistant.

    The text is rendered unchanged. Variables that are set inside the block are not visible outside
    it.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block into a call block around its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


@final
class PlainNamespace(Namespace):
    """Jinja's `namespace`, except that names must not begin with an underscore. Names with an
    underscore would give access to the interpreter.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - a namespace may contain the name `self`
        fields: dict[str, Any] = dict(*args[1:], **kwargs)
        _refuse_underscores(fields)
        Namespace.__init__(args[0], fields)

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any value of a template
        _refuse_underscores((name,))
        super().__setitem__(name, value)


def _refuse_underscores(names: Iterable[str]) -> None:
    for name in names:
        if name.startswith("_"):
            raise SecurityError(
                f"a name in a namespace must not begin with an underscore. Given: {name!r}"
            )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., object]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": PlainNamespace,
        "dict": _dict,
    }
    environment.globals.update(functions)
    return environment


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401 - any value of a template
    """Return a new dict. Templates get this function instead of the class `dict`, because the
    attributes of the class give access to the interpreter.
    """
    return dict(*args, **kwargs)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`. Unlike Jinja's filter, it does not escape HTML characters."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _goes_through_content(loop: nodes.For) -> bool:
    """Whether a loop iterates over `message.content`, `message['content']` or the variable
    `content`.
    """
    target = loop.iter
    while isinstance(target, nodes.Filter) and target.node is not None:
        target = target.node
    match target:
        case nodes.Getattr(attr="content") | nodes.Name(name="content"):
            return True
        case nodes.Getitem(arg=nodes.Const(value="content")):
            return True
    return False


def _mark_open_message(messages: list[dict[str, Any]]) -> str | None:
    """Append the mark to the last message if this message is from the assistant. Returns the text
    of the message, or None if there is no message to continue.
    """
    if not messages or messages[-1].get("role") != "assistant":
        return None
    content = messages[-1].get("content")
    if isinstance(content, str) and content.strip():
        messages[-1] = {**messages[-1], "content": content + _CONTINUE_MARK}
        return content
    if not isinstance(content, list):
        return None
    texts = [
        index
        for index, part in enumerate(content)
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    if not texts or not content[texts[-1]]["text"].strip():
        return None
    part = content[texts[-1]]
    marked = {**part, "text": part["text"] + _CONTINUE_MARK}
    messages[-1] = {
        **messages[-1],
        "content": [*content[: texts[-1]], marked, *content[texts[-1] + 1 :]],
    }
    return str(part["text"])


def _cut_at_mark(text: str, open_text: str) -> str:
    position = text.rfind(_CONTINUE_MARK.rstrip())
    if position < 0 or open_text.strip() not in text:
        raise TemplateError(
            "the template does not show the last assistant message, so it cannot be continued"
        )
    is_trimmed = not text.startswith(_CONTINUE_MARK, position)
    shown = text[:position].replace(_CONTINUE_MARK, "").replace(_CONTINUE_MARK.rstrip(), "")
    return shown.rstrip() if is_trimmed else shown
