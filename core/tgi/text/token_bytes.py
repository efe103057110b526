"""The bytes of tokens, for tokenizers in which a token can be a part of a character."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

__all__ = ["byte_level_bytes", "byte_tokens", "is_byte_level"]

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


def is_byte_level(backend: tokenizers.Tokenizer) -> bool:
    """Whether every token of the tokenizer represents bytes."""
    return set(_decoder_kinds(backend)) == {"ByteLevel"}


def byte_tokens(backend: tokenizers.Tokenizer) -> dict[int, bytes]:
    """The tokens that represent a single byte in a tokenizer with byte fallback, such as `<0x0A>`.
    The result is empty for other tokenizers.
    """
    if "ByteFallback" not in _decoder_kinds(backend):
        return {}
    return {
        number: bytes.fromhex(found[1])
        for text, number in backend.get_vocab().items()
        if (found := _BYTE_TOKEN.fullmatch(text))
    }


def byte_level_bytes(text: str) -> bytes:
    """The bytes of a token of a byte-level tokenizer. An added token may contain characters that do
    not represent a byte. Its text is then encoded as UTF-8.
    """
    numbers = [_BYTES[character] for character in text if character in _BYTES]
    return bytes(numbers) if len(numbers) == len(text) else text.encode()


def _decoder_kinds(backend: tokenizers.Tokenizer) -> Iterator[str]:
    if backend.decoder is not None:
        yield from _kinds(json.loads(backend.decoder.__getstate__()))


def _kinds(part: Mapping[str, Any]) -> Iterator[str]:
    if part.get("type") != "Sequence":
        yield part["type"]
    for inner in part.get("decoders", ()):
        yield from _kinds(inner)
