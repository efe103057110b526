"""Reads the chat templates from a model's files. `ChatTemplateRenderer` runs the templates in a
separate process, because templates are untrusted code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tgi.architectures.file_reader import MAX_JSON_BYTES, read_limited
from tgi.errors import ModelError
from tgi.text.model_files import (
    SPECIAL_TOKEN_FIELDS,
    read_json_object,
    special_token_fields,
    token_content,
)

__all__ = ["DEFAULT_TEMPLATE", "TOOL_TEMPLATE", "ChatTemplate"]

DEFAULT_TEMPLATE, TOOL_TEMPLATE = "default", "tool_use"

_JINJA_FILE, _JINJA_FOLDER = "chat_template.jinja", "additional_chat_templates"


@final
@dataclass(frozen=True)
class ChatTemplate:
    """The sources of a model's templates by name, and the special tokens that the templates may
    use.
    """

    sources: Mapping[str, str]
    special_tokens: Mapping[str, str]
    origin: str = ""  # the folder of the model, for error messages

    @classmethod
    def load(cls, model_path: Path, template_file: Path | None = None) -> ChatTemplate | None:
        """Read the model's templates. Returns None if the model has no template. `template_file`
        is a tokenizer_config.json that takes precedence over the model's files.

        Raises `ModelError` if a file cannot be read.
        """
        config = read_json_object(template_file or model_path / "tokenizer_config.json")
        sources = _find_sources(model_path, config, explicit=template_file is not None)
        if not sources:
            return None
        tokens = special_token_fields(model_path, config)
        contents = {name: token_content(tokens.get(name)) for name in SPECIAL_TOKEN_FIELDS}
        return cls(
            sources,
            {name: text for name, text in contents.items() if text is not None},
            str(model_path),
        )

    def choose(self, *, has_tools: bool) -> str | None:
        """Return the name of the template for a conversation, or None if the model has no such
        template. For a conversation with tools, the template for tools takes precedence over the
        default template.
        """
        names = (TOOL_TEMPLATE, DEFAULT_TEMPLATE) if has_tools else (DEFAULT_TEMPLATE,)
        return next((name for name in names if name in self.sources), None)


def _find_sources(model_path: Path, config: Mapping[str, Any], *, explicit: bool) -> dict[str, str]:
    """Return the sources by name, from the first file that contains a template."""
    if explicit and (field_value := _sources_of(config)):
        return field_value
    if files := _read_jinja_files(model_path):
        return files
    named = (
        read_json_object(model_path / name)
        for name in ("chat_template.json", "processor_config.json")
    )
    chat_template, processor = map(_sources_of, named)
    return chat_template or _sources_of(config) or processor


def _read_jinja_files(model_path: Path) -> dict[str, str]:
    """Return the sources from `chat_template.jinja` and from the folder of additional templates."""
    files = {DEFAULT_TEMPLATE: model_path / _JINJA_FILE}
    files |= {path.stem: path for path in sorted((model_path / _JINJA_FOLDER).glob("*.jinja"))}
    return {name: _read(path) for name, path in files.items() if os.path.lexists(path)}


def _read(path: Path) -> str:
    try:
        return read_limited(path, MAX_JSON_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path}: the chat template cannot be read: {error}.", "Download the file again."
        ) from error


def _sources_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the sources in the field `chat_template`. The field contains one source, or a list of
    sources with names.
    """
    field_value = fields.get("chat_template")
    if isinstance(field_value, list):
        pairs = (
            (entry.get("name"), entry.get("template"))
            for entry in field_value
            if isinstance(entry, dict)
        )
        return {
            name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)
        }
    return {DEFAULT_TEMPLATE: field_value} if isinstance(field_value, str) else {}
