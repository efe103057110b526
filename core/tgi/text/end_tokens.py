"""Finds the end-of-sequence tokens of a model in all files that name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tgi.architectures.file_reader import shown
from tgi.errors import ModelError
from tgi.text.model_files import read_json_object

__all__ = ["find_end_tokens"]

_MAX_ID = 0xFFFFFFFF  # the tokenizers library has ids of 32 bits


def find_end_tokens(
    model_path: Path, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids at which a sequence ends, and log lines about ids that do not exist.

    The result is the union of the ids in generation_config.json and config.json and the tokenizer's
    `eos_token`. Raises `ModelError` if a value is not a number.
    """
    ids: list[int] = []
    notices: list[str] = []
    for name in ("generation_config.json", "config.json"):
        fields = read_json_object(model_path / name)
        numbers = _numbers(model_path / name, _value(fields))
        for number in numbers:
            problem = _problem(backend, number)
            if problem:
                notices.append(f"`eos_token_id` in {name} contains {number}, which {problem}.")
        ids += (number for number in numbers if number >= 0)
    eos_token_id = backend.token_to_id(special_tokens.get("eos_token", ""))
    if eos_token_id is not None:
        ids.append(eos_token_id)
    return tuple(dict.fromkeys(ids)), tuple(notices)


def _problem(backend: tokenizers.Tokenizer, number: int) -> str:
    if number < 0:
        return "is not a token id and is ignored"
    is_known = number <= _MAX_ID and backend.id_to_token(number) is not None
    return "" if is_known else "is not a token of the tokenizer"


def _value(fields: Mapping[str, Any]) -> object:
    """The value in a config. The config of a multimodal model contains this value in the part for
    text.
    """
    text = fields.get("text_config")
    value: object = fields.get("eos_token_id")
    return text.get("eos_token_id") if value is None and isinstance(text, dict) else value


def _numbers(path: Path, value: object) -> list[int]:
    numbers = value if isinstance(value, list) else [value]
    ids = [number for number in numbers if type(number) is int]
    if len(ids) + numbers.count(None) != len(numbers):
        raise ModelError(
            f"{path}: `eos_token_id` must be a token id or a list of token ids."
            f" Given: {shown(repr(value))}.",
            "Correct the file.",
        )
    return ids
