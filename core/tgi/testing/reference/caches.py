"""Caches of the complete backend. They store tokens instead of keys, values and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from tgi.backend import Int32Array

__all__ = ["Caches", "RowCache", "StateCache", "TokenCache"]


@final
class TokenCache:
    """A cache that stores tokens instead of keys and values.

    Each slot contains the token that was written to it. A wrong cache access therefore changes the
    input tokens, and a test detects the wrong output.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._slots = np.zeros((num_blocks, block_size), np.int32)

    def write(self, table: Int32Array, start: int, tokens: Sequence[int] | Int32Array) -> None:
        """Write tokens of a sequence, beginning at position `start`, to the blocks of its table."""
        positions = np.arange(start, start + len(tokens))
        size = self._slots.shape[1]
        self._slots[table[positions // size], positions % size] = tokens

    def read(self, table: Int32Array, num_tokens: int) -> Int32Array:
        """Read the first `num_tokens` tokens of a sequence."""
        found: Int32Array = self._slots[table].reshape(-1)[:num_tokens]
        return found

    def copy(self, source: Int32Array, target: Int32Array) -> None:
        """Copy whole blocks."""
        self._slots[target] = self._slots[source]

    def export(self, blocks: Sequence[int]) -> bytes:
        """Return the content of some blocks as bytes."""
        return self._slots[list(blocks)].astype("<i4").tobytes()

    def restore(self, blocks: Sequence[int], data: bytes) -> None:
        """Fill blocks with exported content. Raises ValueError if the number of blocks differs."""
        self._slots[list(blocks)] = np.frombuffer(data, "<i4").reshape(len(blocks), -1)


@final
class StateCache:
    """States that consist of the tokens that were computed.

    A wrong copy of a state therefore changes the input tokens, and a test detects the wrong output.
    """

    def __init__(self, num_states: int, max_tokens: int) -> None:
        self._tokens = np.zeros((num_states, max_tokens), np.int32)
        self._lengths = np.zeros(num_states, np.int32)

    def read(self, state: int, num_tokens: int) -> Int32Array:
        """Read the tokens of a state [num_tokens]. If the state has another length, the result
        ends with the state's last token, and missing tokens are 0.
        """
        length = int(self._lengths[state])
        found = np.zeros(num_tokens, np.int32)
        count = min(length, num_tokens)
        found[num_tokens - count :] = self._tokens[state, length - count : length]
        return found

    def write(self, state: int, tokens: Int32Array) -> None:
        """Replace a state with the state after `tokens`."""
        self._tokens[state, : len(tokens)] = tokens
        self._lengths[state] = len(tokens)

    def copy(self, source: Int32Array, target: Int32Array) -> None:
        """Copy whole states."""
        self._tokens[target] = self._tokens[source]
        self._lengths[target] = self._lengths[source]


@final
@dataclass(frozen=True)
class Caches:
    """The caches of a worker. A model without one kind of layers does not use its cache."""

    blocks: TokenCache
    encoder: TokenCache
    states: StateCache

    @classmethod
    def allocate(cls, num_blocks: int, block_size: int, num_states: int, max_tokens: int) -> Caches:
        """Allocate empty caches. A state has at most `max_tokens` tokens."""
        return cls(
            TokenCache(num_blocks, block_size),
            TokenCache(num_blocks, block_size),
            StateCache(num_states, max_tokens),
        )


@final
class RowCache:
    """The cached tokens of the sequence of one row, in its blocks, in its state, or in both.

    If the tokens in the blocks and in the state differ, `read` returns other tokens, as a model
    with both kinds of layers would compute another output.
    """

    def __init__(
        self,
        blocks: TokenCache | None,
        table: Int32Array,
        states: StateCache | None,
        state: int,
        start: int,
    ) -> None:
        """`start` is the position of the row's first token. A state is read only if there are
        tokens before the row.
        """
        self._blocks = blocks
        self._table = table
        self._states = states
        self._state = state
        self._known = np.zeros(0, np.int32) if states is None else states.read(state, start)

    def write(self, start: int, tokens: Sequence[int] | Int32Array) -> None:
        """Write tokens from position `start` on. Tokens after them are removed from the state."""
        if self._blocks is not None:
            self._blocks.write(self._table, start, tokens)
        if self._states is not None:
            self._known = np.append(self._known[:start], np.array(tokens, np.int32))

    def read(self, num_tokens: int) -> Int32Array:
        """Read the first `num_tokens` tokens of the sequence."""
        if self._blocks is None:
            return self._known[:num_tokens]
        cached = self._blocks.read(self._table, num_tokens)
        if self._states is None:
            return cached
        known = self._known[:num_tokens]
        found: Int32Array = np.where(cached == known, cached, np.abs(cached - known)).astype(
            np.int32
        )
        return found

    def store(self, num_tokens: int) -> None:
        """Store the state after the first `num_tokens` tokens."""
        if self._states is not None:
            self._states.write(self._state, self._known[:num_tokens])
