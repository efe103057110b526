"""Reads the bytes of a token from its vocabulary entry. The log probabilities in responses contain
these bytes.

The decoded text of a token is not sufficient. A part of a character has no text, and the text of a
single token may lack its leading space.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, final

import tokenizers

from tgi.text.token_bytes import byte_level_bytes, byte_tokens, is_byte_level

__all__ = ["TokenSpelling"]


@final
class TokenSpelling:
    """Reads the bytes of the tokens of one tokenizer from its vocabulary."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._is_byte_level = is_byte_level(backend)
        self._byte_tokens = byte_tokens(backend)
        self._added = backend.get_added_tokens_decoder()
        self._replacements = list(_replacements(backend))
        self._known: dict[int, bytes | None] = {}  # at most one entry per id

    def of(self, token_id: int) -> bytes | None:
        """The bytes of a token, or None if its decoded text must be used instead."""
        if token_id not in self._known:
            self._known[token_id] = self._read(token_id)
        return self._known[token_id]

    def _read(self, token_id: int) -> bytes | None:
        if token_id in self._added:
            return self._added[token_id].content.encode()
        token = self._backend.id_to_token(token_id)
        if token is None:
            return None
        if self._is_byte_level:
            return byte_level_bytes(token)
        if token_id in self._byte_tokens or not self._replacements:
            return self._byte_tokens.get(token_id)
        for old, new in self._replacements:
            token = token.replace(old, new)
        return token.encode()


def _replacements(backend: tokenizers.Tokenizer) -> Iterator[tuple[str, str]]:
    """The texts that the decoders replace in each token."""
    if backend.decoder is None:
        return
    waiting: list[dict[str, Any]] = [json.loads(backend.decoder.__getstate__())]
    while waiting:
        decoder = waiting.pop(0)
        waiting = [*decoder.get("decoders", ()), *waiting]
        if decoder["type"] == "Metaspace":
            yield decoder["replacement"], " "
        elif decoder["type"] == "Replace" and "String" in decoder["pattern"]:
            yield decoder["pattern"]["String"], decoder["content"]
