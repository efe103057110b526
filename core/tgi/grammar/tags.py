"""The tags around the reasoning of a model, as bytes. A tag can be one token or several tokens."""

from __future__ import annotations

from typing import final

from tgi.grammar.constraint import GrammarError
from tgi.grammar.token_table import Int32Array, TokenTable

__all__ = ["Tag"]


@final
class Tag:
    """One tag, for example `</think>`. A state is the number of bytes of the tag with which the
    text so far ends.

    `text_mask` [mask_width] is the mask of the text before the tag. Raises `GrammarError` if the
    tokens of the model cannot express the tag.
    """

    def __init__(self, table: TokenTable, text: str, text_mask: Int32Array) -> None:
        self.data = text.encode()
        if not self.data:
            raise GrammarError("the tag of the reasoning must not be empty")
        self._table = table
        self._forced = [table.tokens_of(self.data[state:]) for state in range(len(self.data))]
        if None in self._forced:
            raise GrammarError(f"the tokens of this model cannot express the tag {text!r}")
        self._masks = self._masks_before(text_mask)

    def search(self, state: int, data: bytes) -> tuple[int, bytes | None]:
        """Read `data` after a text in `state`. Returns the new state, and the bytes after the tag
        or None if the tag is not complete.
        """
        text = self.data[:state] + data
        position = text.find(self.data)
        if position >= 0:
            return 0, text[position + len(self.data) :]
        length = min(len(self.data) - 1, len(text))
        while length and not text.endswith(self.data[:length]):
            length -= 1
        return length, None

    def forced_ids(self, state: int) -> list[int]:
        """The tokens that complete the tag."""
        return list(self._forced[state] or ())

    def next_ids(self, state: int) -> list[int]:
        """The ids of the tokens whose bytes are the next bytes of the tag."""
        return self._table.prefixes_of(self.data[state:])

    def mask_before(self, state: int) -> Int32Array:
        """The mask [mask_width] of the text before the tag: `text_mask` without the tokens in which
        other bytes follow the tag.
        """
        return self._masks[state]

    def _masks_before(self, text_mask: Int32Array) -> list[Int32Array]:
        """The masks of all states. If the tag contains its own beginning, a token can complete the
        tag from a lower state too.
        """
        around = [
            number
            for number in self._table.containing(self.data)
            if self.search(0, self._table.tokens[number])[1]
        ]
        masks = [text_mask & ~self._table.mask_of(around)]
        for state in range(1, len(self.data)):
            lower, _ = self.search(0, self.data[1:state])
            later = self._table.mask_of(self._table.longer_than(self.data[state:]))
            masks.append(masks[lower] & ~later)
        return masks
