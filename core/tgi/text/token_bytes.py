"""The bytes of single tokens, read from the vocabulary.

The decoded text of a token is not sufficient: a token may be a part of a character, and its text is
then only a replacement character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, final

import tokenizers

__all__ = ["TokenBytes"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_FIRST_OTHER_CHARACTER = 0x100  # byte-level tokenizers write unprintable bytes from here on


@final
class TokenBytes:
    """Reads the bytes of the tokens of one tokenizer. Supports byte-level tokenizers and tokenizers
    with byte tokens such as `<0x0A>`.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._added = {
            number: token.content for number, token in backend.get_added_tokens_decoder().items()
        }
        decoders = list(_decoders(backend))
        kinds = {decoder.get("type") for decoder in decoders}
        self._byte_of = _byte_level_alphabet() if "ByteLevel" in kinds else None
        self._has_byte_tokens = "ByteFallback" in kinds
        self._replaced = [pair for decoder in decoders for pair in _replacements(decoder)]
        self._known: dict[int, bytes | None] = {}

    def of(self, token_id: int) -> bytes | None:
        """The bytes of a token, or None if the vocabulary does not contain them."""
        if token_id not in self._known:
            self._known[token_id] = self._read(token_id)
        return self._known[token_id]

    def _read(self, token_id: int) -> bytes | None:
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        token = self._backend.id_to_token(token_id)
        if token is None:
            return None
        if self._byte_of is not None:
            values = [self._byte_of.get(character) for character in token]
            known = [value for value in values if value is not None]
            return bytes(known) if len(known) == len(values) else token.encode()
        if not self._has_byte_tokens:
            return None
        byte = _BYTE_TOKEN.fullmatch(token)
        if byte is not None:
            return bytes.fromhex(byte[1])
        for old, new in self._replaced:
            token = token.replace(old, new)
        return token.encode()


def _decoders(backend: tokenizers.Tokenizer) -> Iterator[dict[str, Any]]:
    """The decoders of a tokenizer, as in `tokenizer.json`."""
    if backend.decoder is None:
        return
    waiting = [json.loads(backend.decoder.__getstate__())]
    while waiting:
        decoder = waiting.pop(0)
        yield decoder
        waiting = list(decoder.get("decoders") or ()) + waiting


def _replacements(decoder: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts that a decoder replaces in each token."""
    if decoder.get("type") == "Metaspace":
        yield decoder["replacement"], " "
    elif decoder.get("type") == "Replace" and "String" in decoder["pattern"]:
        yield decoder["pattern"]["String"], decoder["content"]


def _byte_level_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary represents (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(0x100) if value not in printable]
    return {chr(value): value for value in printable} | {
        chr(_FIRST_OTHER_CHARACTER + index): value for index, value in enumerate(others)
    }
