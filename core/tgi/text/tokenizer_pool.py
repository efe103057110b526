"""Runs the tokenizer for the event loop: in the loop for short texts, in a separate process for
long texts, and in threads for all others.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, final

from tgi.text.long_texts.process import TokenizerProcess
from tgi.text.tokenizer import Encoding, Tokenizer

__all__ = ["TokenizerPool"]

# Maximum length in characters of a text that is tokenized in the event loop. The passage of a text
# to a thread and back takes longer than the tokenization of such a text.
_MAX_SHORT_LENGTH = 256
# Minimum length in characters of a text that is tokenized in the separate process. For a shorter
# text, the tokenizers library holds the interpreter lock for a few milliseconds.
_MIN_LONG_LENGTH = 1 << 16


class _TextTokenizer(Protocol):
    """The methods of `Tokenizer` that the pool calls."""

    def encode(self, text: str, add_special_tokens: bool, truncate: int | None) -> Encoding:
        """The token ids of `text`."""

    def count(self, text: str, add_special_tokens: bool) -> int:
        """The number of token ids of `text`."""

    def format_tokens(self, text: str, add_special_tokens: bool) -> list[bytes]:
        """The tokens of `text` with their positions, as JSON."""


@final
class TokenizerPool:
    """Runs the tokenizer outside the event loop, so that a long text does not block the loop. Short
    texts are encoded in the event loop.
    """

    def __init__(self, tokenizer: Tokenizer, workers: int, folder: Path | None = None) -> None:
        """`workers` is the number of threads. `folder` contains the files of the tokenizer. Without
        it, long texts are tokenized in threads of this process.
        """
        self.tokenizer = tokenizer
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="tokenizer")
        self._process = None if folder is None else TokenizerProcess(folder)
        self._long_executor = ThreadPoolExecutor(1, thread_name_prefix="long texts")

    async def encode(
        self, text: str, add_special_tokens: bool = True, truncate: int | None = None
    ) -> Encoding:
        """Run `Tokenizer.encode`."""
        if len(text) <= _MAX_SHORT_LENGTH:
            return self.tokenizer.encode(text, add_special_tokens, truncate)
        executor, tokenizer = self._place_of(text)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            executor, tokenizer.encode, text, add_special_tokens, truncate
        )

    async def count(self, text: str, add_special_tokens: bool = True) -> int:
        """Run `Tokenizer.count`."""
        executor, tokenizer = self._place_of(text)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, tokenizer.count, text, add_special_tokens)

    async def format_tokens(self, text: str, add_special_tokens: bool = True) -> list[bytes]:
        """The tokens of `text` with their positions, as JSON objects with commas between them. The
        result is a list of blocks.
        """
        executor, tokenizer = self._place_of(text)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            executor, tokenizer.format_tokens, text, add_special_tokens
        )

    def close(self) -> None:
        """Stop the threads and the process."""
        if self._process is not None:
            self._process.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._long_executor.shutdown(wait=False, cancel_futures=True)

    def _place_of(self, text: str) -> tuple[ThreadPoolExecutor, _TextTokenizer]:
        if self._process is None or len(text) < _MIN_LONG_LENGTH:
            return self._executor, self.tokenizer
        return self._long_executor, self._process
