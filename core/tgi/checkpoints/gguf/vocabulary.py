"""The vocabulary in the metadata of a GGUF file: tokens, their types and their special tokens."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, final

from tgi.architectures.file_reader import shown
from tgi.checkpoints.gguf.container import GgufHeader
from tgi.checkpoints.gguf.metadata import Metadata
from tgi.errors import ModelError

__all__ = ["TokenType", "Vocabulary", "tokenizer_error"]

_PREFIX = "tokenizer.ggml."
_IDS = {"bos": 1, "eos": 2, "unknown": 0}  # the defaults of SentencePiece
_FIELDS: Mapping[str, str] = MappingProxyType(
    {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
)
"""The special tokens, and their fields in tokenizer_config.json."""

_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<end_of_turn>",
        "<EOT>",
    }
)
"""Control tokens that end a turn. Files name at most one token for each kind of end, but models may
use several tokens. llama.cpp recognizes these tokens by their texts, too.
"""


class TokenType(enum.IntEnum):
    """The values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@final
class Vocabulary:
    """The tokens of a file by id. The constructor raises `ModelError` if the metadata has no tokens
    or if a special token does not exist.
    """

    def __init__(self, header: GgufHeader, *, has_default_ids: bool) -> None:
        self.header = header
        self.metadata: Metadata = header.metadata
        self.tokens = _unique(self.metadata.strings(f"{_PREFIX}tokens"))
        self.types = self._read_types()
        self.ids: dict[str, int] = {}  # by name in `_FIELDS`
        for name in _FIELDS:
            default = _IDS.get(name) if has_default_ids else None
            key = f"{_PREFIX}{name}_token_id"
            if key in self.metadata or (default is not None and default < len(self.tokens)):
                self.ids[name] = self._token_id(key, default)

    @property
    def special_fields(self) -> dict[str, str]:
        """The fields of tokenizer_config.json that name special tokens."""
        return {_FIELDS[name]: self.tokens[number] for name, number in self.ids.items()}

    @property
    def end_ids(self) -> list[int]:
        """The ids at which a sequence ends. The end of the text is first."""
        named = [self.ids[name] for name in ("eos",) if name in self.ids]
        for name in ("eot", "eom"):
            key = f"{_PREFIX}{name}_token_id"
            if key in self.metadata:
                named.append(self._token_id(key, None))
        by_text = (
            number
            for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind == TokenType.CONTROL and token in _ENDS
        )
        return list(dict.fromkeys([*named, *by_text]))

    def of_type(self, *types: TokenType) -> Iterator[tuple[int, str]]:
        """Yield the ids and texts of the tokens of some types."""
        for number, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind in types:
                yield number, token

    def added_tokens(self, *, strips_right: bool = False) -> list[dict[str, Any]]:
        """The tokens that are recognized in a text before the text is split, in the format of
        tokenizer.json. If `strips_right` is set, spaces after such a token are removed. This does
        not apply to the tokens of `special_fields`.
        """
        special = {self.ids[name] for name in self.ids}
        kinds = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
        return [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": strips_right and number not in special,
                "normalized": False,
                "special": number in special or self.types[number] != TokenType.USER_DEFINED,
            }
            for number, token in enumerate(self.tokens)
            if number in special or self.types[number] in kinds
        ]

    def template(self, *, adds_bos: bool) -> dict[str, Any] | None:
        """The special tokens that are added to each text, in the format of tokenizer.json, or None
        if there are none. `adds_bos` is the default of `tokenizer.ggml.add_bos_token`.
        """
        adds_bos = self.metadata.boolean(f"{_PREFIX}add_bos_token", adds_bos)
        adds_eos = self.metadata.boolean(f"{_PREFIX}add_eos_token", default=False)
        before = ["bos"] if adds_bos and "bos" in self.ids else []
        after = ["eos"] if adds_eos and "eos" in self.ids else []
        if not before and not after:
            return None

        def part(name: str, sequence: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": self.tokens[self.ids[name]], "type_id": sequence}}

        def sequence(name: str, number: int) -> list[dict[str, Any]]:
            return [
                *(part(item, number) for item in before),
                {"Sequence": {"id": name, "type_id": number}},
                *(part(item, number) for item in after),
            ]

        texts = {self.tokens[self.ids[name]]: self.ids[name] for name in (*before, *after)}
        return {
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": [*sequence("A", 0), *sequence("B", 1)],
            "special_tokens": {
                text: {"id": text, "ids": [number], "tokens": [text]}
                for text, number in texts.items()
            },
        }

    def _read_types(self) -> list[int]:
        key = f"{_PREFIX}token_type"
        if key not in self.metadata:
            return [TokenType.NORMAL] * len(self.tokens)
        return [int(kind) for kind in self.metadata.numbers(key, len(self.tokens))]

    def _token_id(self, key: str, default: int | None) -> int:
        number = self.metadata.integer(key, default, minimum=0)
        if number >= len(self.tokens):
            raise self.metadata.error(key, f"must be the id of one of {len(self.tokens)} tokens")
        return number


def tokenizer_error(header: GgufHeader, cause: str) -> ModelError:
    """Create the error for a tokenizer that cannot be built from the metadata."""
    return ModelError(
        f"{shown(header.path)}: the tokenizer cannot be built from the metadata: {cause}.",
        "Copy tokenizer.json, tokenizer_config.json and generation_config.json of the original"
        " model into the folder of the file.",
    )


def _unique(tokens: list[str]) -> list[str]:
    """Rename empty and repeated tokens, because each text of tokenizer.json has one id."""
    seen = {""}
    unique = list(tokens)
    for number, token in enumerate(tokens):
        if token in seen:
            unique[number] = f"[UNUSED_{number}]"
        seen.add(unique[number])
    return unique
