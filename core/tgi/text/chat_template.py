"""Chat templates: messages to one prompt, as `transformers.apply_chat_template` renders them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, final

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tgi.errors import ModelError, TemplateError
from tgi.text.model_files import read_json_object, token_content

__all__ = ["ChatTemplate", "Message"]

Message = Mapping[str, Any]

MAX_RENDERED_CHARACTERS = 64_000_000
"""A template that writes more has run away."""

_TOKEN_FIELDS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_RENDER_ERRORS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What a template's expressions raise on messages it was not written for."""


@final
@dataclass(frozen=True)
class ChatTemplate:
    """A compiled template and the special tokens it may write."""

    template: jinja2.Template
    special_tokens: Mapping[str, str]
    takes_parts: bool  # it goes through the parts of a message's content itself

    @classmethod
    def load(cls, model_path: Path, template_file: Path | None = None) -> ChatTemplate | None:
        """The model's template, None if it has none. `template_file` is a tokenizer_config.json that goes first.

        Raises `ModelError` if the template does not compile.
        """
        config = read_json_object(template_file or model_path / "tokenizer_config.json")
        source = _find_source(model_path, config, explicit=template_file is not None)
        if source is None:
            return None
        tokens = read_json_object(model_path / "special_tokens_map.json") | config
        contents = {name: token_content(tokens.get(name)) for name in _TOKEN_FIELDS}
        return cls.compile(source, {name: text for name, text in contents.items() if text is not None}, str(model_path))

    @classmethod
    def compile(cls, source: str, special_tokens: Mapping[str, str], origin: str = "") -> ChatTemplate:
        """A template from its source. Raises `ModelError`."""
        environment = _environment()
        try:
            template = environment.from_string(source)
            takes_parts = any(_goes_through_content(loop) for loop in environment.parse(source).find_all(nodes.For))
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"{origin}: the chat template does not compile: {error.message} (line {error.lineno}).",
                "Correct it, or name another with `--tokenizer-config-path`.",
            ) from error
        return cls(template, special_tokens, takes_parts)

    def render(self, messages: Sequence[Message], tools: Sequence[object] | None = None) -> str:
        """The prompt for the next answer; a last message of the assistant is left open to be continued.

        Raises `TemplateError`.
        """
        prepared = [self._prepared(message) for message in messages]
        final_content = _open_final_content(prepared)
        variables = {
            **self.special_tokens,
            "messages": prepared,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": final_content is None,
        }
        text = self._rendered(variables)
        return text if final_content is None else _cut_after(text, final_content)

    def _prepared(self, message: Message) -> dict[str, Any]:
        content = message.get("content")
        if self.takes_parts or not isinstance(content, list):
            return dict(message)
        return {**message, "content": "".join(str(part.get("text", "")) for part in content)}

    def _rendered(self, variables: Mapping[str, object]) -> str:
        pieces: list[str] = []
        num_characters = 0
        try:
            for piece in self.template.generate(variables):
                num_characters += len(piece)
                if num_characters > MAX_RENDERED_CHARACTERS:
                    raise TemplateError(f"the rendered prompt is longer than {MAX_RENDERED_CHARACTERS} characters")
                pieces.append(piece)
        except (
            jinja2.TemplateError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as error:
            raise TemplateError(f"{error}" or type(error).__name__) from error
        return "".join(pieces)


@final
class GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}` marks what an assistant wrote; for a prompt it means nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that transformers renders in."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., object]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(functions)
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, it escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().astimezone().strftime(pattern)


def _find_source(model_path: Path, config: Mapping[str, Any], *, explicit: bool) -> str | None:
    jinja_file = model_path / "chat_template.jinja"
    if explicit and (source := _default_template(config)) is not None:
        return source
    if jinja_file.exists():
        try:
            return jinja_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{jinja_file}: the chat template cannot be read: {error}.", "Fetch it again.") from error
    named = (read_json_object(model_path / name) for name in ("chat_template.json", "processor_config.json"))
    chat_template, processor = map(_default_template, named)
    return next((s for s in (chat_template, _default_template(config), processor) if s is not None), None)


def _default_template(fields: Mapping[str, Any]) -> str | None:
    """`chat_template` as text, or the one named `default` of a list."""
    given = fields.get("chat_template")
    if isinstance(given, list):
        given = next((t.get("template") for t in given if isinstance(t, dict) and t.get("name") == "default"), None)
    return given if isinstance(given, str) else None


def _goes_through_content(loop: nodes.For) -> bool:
    """Whether a loop runs over `message.content`, `message['content']` or a variable of that name."""
    target = loop.iter
    while isinstance(target, nodes.Filter) and target.node is not None:
        target = target.node
    match target:
        case nodes.Getattr(attr="content") | nodes.Name(name="content"):
            return True
        case nodes.Getitem(arg=nodes.Const(value="content")):
            return True
    return False


def _open_final_content(messages: Sequence[Message]) -> str | None:
    """The text of a last assistant message, which the answer continues."""
    if not messages or messages[-1].get("role") != "assistant":
        return None
    content = messages[-1].get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) and content.strip() else None


def _cut_after(text: str, content: str) -> str:
    position = text.rfind(content.strip())
    if position < 0:
        raise TemplateError("the template does not show the last assistant message, so it cannot be continued")
    return text[: position + len(content.strip())].rstrip()
