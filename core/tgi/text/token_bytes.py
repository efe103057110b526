"""The bytes of tokens, for tokenizers in which a token can be a part of a character."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, final

import tokenizers

__all__ = ["TokenBytes"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_characters() -> dict[str, int]:
    """The characters that represent bytes in the vocabulary of a byte-level tokenizer. A printable
    byte is represented by its own character. The other bytes are represented by characters from
    U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(0x100) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTES = _byte_characters()


@final
class TokenBytes:
    """The bytes of the tokens of one tokenizer.

    `is_complete` is True if every token stands for bytes (byte-level tokenizers). In tokenizers
    with byte fallback, only tokens such as `<0x0A>` stand for bytes.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        kinds = set(_decoder_kinds(backend))
        self.is_complete = kinds == {"ByteLevel"}
        self._backend = backend
        self._cache: dict[int, bytes] = {}  # at most one entry per id
        self._bytes: Mapping[int, bytes] = {}
        if "ByteFallback" in kinds:
            self._bytes = {
                number: bytes.fromhex(found[1])
                for text, number in backend.get_vocab().items()
                if (found := _BYTE_TOKEN.fullmatch(text))
            }

    def of(self, token_id: int) -> bytes | None:
        """The bytes of a token, or None if the token does not stand for bytes. A token that is
        unknown to a byte-level tokenizer has no bytes.
        """
        if not self.is_complete:
            return self._bytes.get(token_id)
        data = self._cache.get(token_id)
        if data is None:
            text = self._backend.id_to_token(token_id) or ""
            data = self._cache[token_id] = _byte_level(text)
        return data


def _byte_level(text: str) -> bytes:
    """The bytes of a token of a byte-level tokenizer. An added token may contain characters that do
    not stand for a byte. It is then encoded as it is.
    """
    numbers = [_BYTES.get(character) for character in text]
    known = bytes(number for number in numbers if number is not None)
    return known if len(known) == len(text) else text.encode()


def _decoder_kinds(backend: tokenizers.Tokenizer) -> Iterator[str]:
    if backend.decoder is not None:
        yield from _kinds(json.loads(backend.decoder.__getstate__()))


def _kinds(part: Mapping[str, Any]) -> Iterator[str]:
    if part.get("type") != "Sequence":
        yield part["type"]
    for inner in part.get("decoders", ()):
        yield from _kinds(inner)
