"""The tokens of a model as bytes: search by prefix and by content, and masks of tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Int32Array", "TokenTable"]

Int32Array = NDArray[np.int32]


@final
class TokenTable:
    """The bytes of the tokens 0, 1, …. A token without bytes is never found."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens
        self.mask_width = -(-len(tokens) // 32)  # in int32 words
        # If tokens have the same bytes, the last one is used. In the usual order, it is an added
        # token or a token of the text, and not the byte token of a tokenizer with byte fallback.
        self._ids = {token: number for number, token in enumerate(tokens) if token}
        self._longest = max(map(len, self._ids), default=0)

    @property
    def num_tokens(self) -> int:
        """The number of ids, including ids without bytes."""
        return len(self.tokens)

    @cached_property
    def _sorted(self) -> tuple[list[int], list[bytes]]:
        order = sorted(range(len(self.tokens)), key=self.tokens.__getitem__)
        return order, [self.tokens[number] for number in order]

    def id_of(self, text: bytes) -> int | None:
        """The token with exactly these bytes."""
        return self._ids.get(text)

    def mask_of(self, token_ids: Iterable[int]) -> Int32Array:
        """A mask [mask_width] that allows exactly `token_ids`."""
        bits = np.zeros(self.mask_width * 32, np.uint8)
        bits[list(token_ids)] = 1
        return np.packbits(bits, bitorder="little").view("<i4").astype(np.int32, copy=False)

    def longer_than(self, prefix: bytes) -> list[int]:
        """The tokens that begin with `prefix` and contain more bytes."""
        order, texts = self._sorted
        place = bisect_left(texts, prefix)
        found: list[int] = []
        while place < len(texts) and texts[place].startswith(prefix):
            if len(texts[place]) > len(prefix):
                found.append(order[place])
            place += 1
        return found

    def containing(self, text: bytes) -> list[int]:
        """The tokens that contain `text`."""
        return [number for number, token in enumerate(self.tokens) if text in token]

    def prefixes_of(self, text: bytes) -> list[int]:
        """The tokens with which `text` begins, one per length, in ascending order of length."""
        lengths = range(1, min(len(text), self._longest) + 1)
        found = (self._ids.get(text[:length]) for length in lengths)
        return [number for number in found if number is not None]

    def tokens_of(self, text: bytes) -> list[int] | None:
        """Tokens whose bytes are `text`: always the longest possible token. None: there is no token
        for the next bytes.
        """
        token_ids: list[int] = []
        while text:
            found = self.prefixes_of(text)
            if not found:
                return None
            token_ids.append(found[-1])
            text = text[len(self.tokens[found[-1]]) :]
        return token_ids
