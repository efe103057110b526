"""Reads the tokenizer of a model from all files that name tokens, as `transformers` does.

The files are tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json, and
vocab.json with merges.txt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import tokenizers
from tokenizers import AddedToken

from tgi.architectures.file_reader import read_limited, shown
from tgi.errors import ModelError
from tgi.text.end_tokens import find_end_tokens
from tgi.text.mistral_pattern import fix_mistral_pattern
from tgi.text.model_files import (
    SPECIAL_TOKEN_FIELDS,
    read_json_object,
    special_token_fields,
    token_content,
)
from tgi.text.text_growth import check_decoder, check_template, growth
from tgi.text.tokenizer_classes import (
    MAX_TOKENIZER_BYTES,
    NO_TOKENIZER_REMEDY,
    TokenizerClass,
    add_template,
    build_tokenizer,
    tokenizer_class,
)

__all__ = ["LoadedBackend", "TokenizerFiles", "load_backend", "read_tokens"]

_TOKEN_OPTIONS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MAX_LISTED = 3  # tokens in a notice


@final
@dataclass(frozen=True)
class LoadedBackend:
    """A tokenizer without the tokens that other files name. `recipe` is set if it was built from
    vocab.json and merges.txt.
    """

    backend: tokenizers.Tokenizer
    recipe: TokenizerClass | None = None


@final
@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer that the files of a model describe."""

    backend: tokenizers.Tokenizer
    # Maps fields of the config, such as `bos_token`, to the text of the token.
    special_tokens: dict[str, str]
    special_ids: frozenset[int]
    eos_token_ids: tuple[int, ...]
    growth: int  # maximum number of characters to which the normalizer expands one character
    notices: tuple[str, ...]  # log lines about faults in the files that do not prevent startup


@final
@dataclass(frozen=True)
class _Tokens:
    """The tokens that the JSON files name. `by_id` has the ids in the files. `named` are the tokens
    of fields such as `bos_token`, and `extra` are special tokens without a field.
    """

    by_id: dict[int, AddedToken]
    named: dict[str, AddedToken]
    extra: list[AddedToken]


def load_backend(model_path: Path) -> LoadedBackend:
    """Build the tokenizer from tokenizer.json, or from vocab.json and merges.txt. Raises
    `ModelError`, or the errors of the library.
    """
    whole, vocab, merges = (
        model_path / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    if os.path.lexists(whole):
        data = read_limited(whole, MAX_TOKENIZER_BYTES)
        return LoadedBackend(tokenizers.Tokenizer.from_buffer(data))
    if not (vocab.exists() and merges.exists()):
        raise ModelError(
            f"{model_path}: the folder contains neither tokenizer.json nor vocab.json with"
            " merges.txt.",
            NO_TOKENIZER_REMEDY,
        )
    config = read_json_object(model_path / "tokenizer_config.json")
    recipe = tokenizer_class(model_path, config, read_json_object(model_path / "config.json"))
    return LoadedBackend(build_tokenizer(model_path, recipe, config), recipe)


def read_tokens(model_path: Path, loaded: LoadedBackend) -> TokenizerFiles:
    """Add the tokens that the other files of the model name. Raises `ModelError`, or the errors of
    the library.
    """
    backend, recipe = loaded.backend, loaded.recipe
    config = read_json_object(model_path / "tokenizer_config.json")
    # The files may enable truncation and padding for batches, which would change the ids.
    backend.no_truncation()
    backend.no_padding()
    defaults = {} if recipe is None else recipe.special_tokens
    tokens = _read_tokens(model_path, config, backend, defaults)
    notices = [*_missing_tokens(backend, tokens)]
    _add_tokens(backend, tokens)
    fix_mistral_pattern(backend, config, read_json_object(model_path / "config.json"))
    notices += _moved_tokens(backend, tokens)
    special_tokens = {
        field: token.content
        for field, token in tokens.named.items()
        if field in SPECIAL_TOKEN_FIELDS
    }
    if recipe is not None:
        add_template(backend, recipe, config, special_tokens)
    if config.get("split_special_tokens") is True:
        backend.encode_special_tokens = True
    eos_token_ids, eos_notices = find_end_tokens(model_path, backend, special_tokens)
    check_template(model_path, backend)
    check_decoder(model_path, backend)
    return TokenizerFiles(
        backend,
        special_tokens,
        frozenset(_special_ids(backend, tokens)),
        eos_token_ids,
        growth(backend.normalizer),
        (*notices, *eos_notices),
    )


def _read_tokens(
    model_path: Path,
    config: Mapping[str, Any],
    backend: tokenizers.Tokenizer,
    defaults: Mapping[str, str],
) -> _Tokens:
    """Read the tokens by the rules of `transformers`: added_tokens.json applies only if
    tokenizer_config.json has no `added_tokens_decoder`.
    """
    fields = {**defaults, **special_token_fields(model_path, config)}
    by_id: dict[int, AddedToken] = {}
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, dict):
        pairs = ((int(number), _token(value)) for number, value in listed.items())
        by_id = {number: token for number, token in pairs if token is not None}
    else:
        texts = {token_content(value) for _, value in _special_values(fields)}
        for text, number in read_json_object(model_path / "added_tokens.json").items():
            special = text in texts
            by_id[int(number)] = AddedToken(text, normalized=not special, special=special)
        by_id |= backend.get_added_tokens_decoder()
    known = {token.content: token for token in by_id.values()}
    named: dict[str, AddedToken] = {}
    extra: list[AddedToken] = []
    for field, value in _special_values(fields):
        token = _token(value, special=True)
        if token is None:
            continue
        token = known.get(token.content, token)
        if field:
            named[field] = token
        else:
            extra.append(token)
    return _Tokens(by_id, named, extra)


def _special_values(fields: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield the fields that name special tokens, with their values. The field of a token in a list
    is empty.
    """
    for field in SPECIAL_TOKEN_FIELDS:
        yield field, fields.get(field)
    for field, value in fields.items():
        if field.endswith("_token") and field not in SPECIAL_TOKEN_FIELDS:
            yield field, value
    for field in ("extra_special_tokens", "additional_special_tokens"):
        extra = fields.get(field)
        if isinstance(extra, dict):
            yield from extra.items()
        elif isinstance(extra, list) and extra:
            yield from (("", value) for value in extra)
            return


def _token(value: object, *, special: bool | None = None) -> AddedToken | None:
    """Return the token that `value` describes: its text, or an object with `content`. Returns None
    for any other value.
    """
    content = token_content(value)
    if not content:
        return None
    options = {
        name: option
        for name, option in (value.items() if isinstance(value, dict) else ())
        if name in _TOKEN_OPTIONS and isinstance(option, bool)
    }
    if special is not None:
        options["special"] = special
    return AddedToken(content, **options)


def _add_tokens(backend: tokenizers.Tokenizer, tokens: _Tokens) -> None:
    """Add the tokens in the order of `transformers`. The library assigns the ids of new tokens."""
    named = {token.content for token in tokens.named.values()}
    added = [token for _, token in sorted(tokens.by_id.items(), key=lambda pair: pair[0])]
    seen = {token.content for token in backend.get_added_tokens_decoder().values()}
    seen.update(token.content for token in added)
    # If several fields name the same new token, the library uses the options of the last one.
    added += (t for t in (*tokens.named.values(), *tokens.extra) if t.content not in seen)
    for token in added:
        if token.content in named and not token.special:
            token.special = True
    backend.add_tokens(added)


def _special_ids(backend: tokenizers.Tokenizer, tokens: _Tokens) -> Iterator[int]:
    for number, token in backend.get_added_tokens_decoder().items():
        if token.special:
            yield number
    for token in (*tokens.named.values(), *tokens.extra):
        token_id = backend.token_to_id(token.content)
        if token_id is not None:
            yield token_id


def _missing_tokens(backend: tokenizers.Tokenizer, tokens: _Tokens) -> Iterator[str]:
    """Yield a notice about the named special tokens that have no id in any file."""
    texts = {token.content for token in tokens.by_id.values()}
    missing = [
        f"`{field}` (`{shown(token.content)}`)"
        for field, token in tokens.named.items()
        if token.content not in texts and backend.token_to_id(token.content) is None
    ]
    if missing:
        yield (
            f"The files of the tokenizer name special tokens that have no id: {_some(missing)}. As"
            " in transformers, they get the next free ids. If the model does not know these tokens,"
            " remove their fields from tokenizer_config.json."
        )


def _moved_tokens(backend: tokenizers.Tokenizer, tokens: _Tokens) -> Iterator[str]:
    """Yield a notice about the tokens whose id is not the id in the files."""
    moved = [
        f"`{shown(token.content)}` (id {backend.token_to_id(token.content)} instead of {number})"
        for number, token in sorted(tokens.by_id.items())
        if backend.token_to_id(token.content) != number
    ]
    if moved:
        yield (
            f"The ids of added tokens do not follow the vocabulary: {_some(moved)}. As in"
            " transformers, these tokens get the next free ids. Save the tokenizer again."
        )


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:_MAX_LISTED])
    return listed if len(names) <= _MAX_LISTED else f"{listed} and {len(names) - _MAX_LISTED} more"
