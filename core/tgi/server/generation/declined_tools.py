"""Generates a second output without tools if the model wrote that no tool is suitable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, final

from tgi.server.generation.output import GeneratedToken, Generation

__all__ = ["DecliningGeneration", "TokenStream"]


class TokenStream(Protocol):
    """The running sequences of one prompt. See `Generation`."""

    input_length: int

    @property
    def num_cached_tokens(self) -> int:
        """Number of prompt tokens in the prefix cache. It is known after the first token."""

    def __aiter__(self) -> AsyncIterator[list[GeneratedToken]]:
        """Iterate over the token events."""

    def close(self) -> None:
        """Abort the sequences that have not ended."""


@final
class DecliningGeneration:
    """The generation of one sequence that may decline all tools. The tokens of an output that
    declines are dropped, and those of the second generation follow.

    `begin_second` starts the second generation and raises `RequestError` if it is rejected.
    """

    def __init__(
        self, first: Generation, begin_second: Callable[[], Awaitable[Generation]]
    ) -> None:
        self.input_length = first.input_length  # of the last generation that has begun
        self._generation = first
        self._begin_second = begin_second

    @property
    def num_cached_tokens(self) -> int:
        """Number of prompt tokens in the prefix cache. It is known after the first token."""
        return self._generation.num_cached_tokens

    async def __aiter__(self) -> AsyncIterator[list[GeneratedToken]]:
        """Yield the token events. Tokens without parts are withheld until the first part is known.
        Raises the errors of `Generation`.
        """
        withheld: list[GeneratedToken] = []
        is_decided = False  # a part is known, so the output does not decline
        async for tokens in self._generation:
            withheld += tokens
            result = withheld[-1].result
            if result is not None and result.parts is not None and result.parts.has_declined:
                break
            is_decided = is_decided or any(token.parts for token in tokens)
            if is_decided or result is not None:
                yield withheld
                withheld = []
        else:
            return
        self._generation.close()
        self._generation = await self._begin_second()
        self.input_length = self._generation.input_length
        async for tokens in self._generation:
            yield tokens

    def close(self) -> None:
        """Abort the sequences that have not ended."""
        self._generation.close()
