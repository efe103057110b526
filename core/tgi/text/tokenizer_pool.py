"""Runs the tokenizer for the event loop: in the loop for short texts, and in threads for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import final

from tgi.text.tokenizer import Encoding, Tokenizer, TokenSpan

__all__ = ["TokenizerPool"]

# Maximum length in characters of a text that is tokenized in the event loop. The passage of a text
# to a thread and back takes longer than the tokenization of such a text.
_MAX_SHORT_LENGTH = 256
_NUM_BLOCK_TOKENS = 1024  # number of tokens that are formatted in one call


@final
class TokenizerPool:
    """Runs the tokenizer in threads, so that a long text does not block the event loop. Short texts
    are encoded in the event loop.
    """

    def __init__(self, tokenizer: Tokenizer, workers: int) -> None:
        self.tokenizer = tokenizer
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")

    async def encode(
        self, text: str, add_special_tokens: bool = True, truncate: int | None = None
    ) -> Encoding:
        """Run `Tokenizer.encode`, in a thread if the text is long."""
        if len(text) <= _MAX_SHORT_LENGTH:
            return self.tokenizer.encode(text, add_special_tokens, truncate)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, self.tokenizer.encode, text, add_special_tokens, truncate
        )

    async def count(self, text: str, add_special_tokens: bool = True) -> int:
        """Run `Tokenizer.count` in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, self.tokenizer.count, text, add_special_tokens
        )

    async def format_tokens(
        self,
        text: str,
        formatter: Callable[[Sequence[TokenSpan]], bytes],
        add_special_tokens: bool = True,
    ) -> list[bytes]:
        """Run `Tokenizer.tokenize` in a thread, and `formatter` on each block of tokens. Returns
        the formatted blocks with commas between them.
        """

        def run() -> list[bytes]:
            spans = self.tokenizer.tokenize(text, add_special_tokens)
            blocks: list[bytes] = []
            while block := list(islice(spans, _NUM_BLOCK_TOKENS)):
                blocks += [b",", formatter(block)] if blocks else [formatter(block)]
            return blocks

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    def close(self) -> None:
        """Stop the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)
