"""Tokenizes large texts in a separate process.

The tokenizers library creates and frees the tokens of a text while it holds the interpreter lock.
For a text of 2 MB, this blocks the event loop for hundreds of milliseconds. The process returns
arrays of numbers or JSON, which are cheap to read.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from array import array
from pathlib import Path
from threading import Lock
from typing import final

from tgi.config import process_environment, without_secrets
from tgi.errors import UnhealthyError, ValidationError
from tgi.text.long_texts.messages import (
    TokenizedText,
    TokenizeText,
    TokenizeWork,
    receive_result,
)
from tgi.text.socket_frames import encode_frame
from tgi.text.tokenizer import Encoding

__all__ = ["TokenizerProcess"]

_COMMAND = (sys.executable, "-m", "tgi.text.long_texts.child")
_MAX_ATTEMPTS = 2  # a process that another process has killed is replaced once per text
_NUM_BLOCK_IDS = 1 << 14  # ids that are converted in one call, which holds the interpreter lock


@final
class TokenizerProcess:
    """The process, which is started for the first large text. The methods block and are called by
    one thread, except for `close`. They return the same results as the methods of `Tokenizer` with
    the same names.

    They raise `ValidationError` if the text cannot be tokenized, and `UnhealthyError` if the
    process ends repeatedly.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` contains the tokenizer."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._is_closed = False
        self._lock = Lock()  # for the process and its connection

    @property
    def pid(self) -> int | None:
        """The process id, or None before the first large text."""
        return None if self._process is None else self._process.pid

    def encode(self, text: str, add_special_tokens: bool, truncate: int | None) -> Encoding:
        """The token ids of `text`. See `Tokenizer.encode`."""
        work = TokenizeText(TokenizeWork.ENCODE, text, add_special_tokens, truncate)
        [numbers] = self._run(work).blocks
        ids: list[int] = []
        column = _column(numbers)
        for start in range(0, len(column), _NUM_BLOCK_IDS):
            ids += column[start : start + _NUM_BLOCK_IDS]
        return Encoding(ids)

    def count(self, text: str, add_special_tokens: bool) -> int:
        """The number of token ids of `text`."""
        return self._run(TokenizeText(TokenizeWork.COUNT, text, add_special_tokens)).num_tokens

    def format_tokens(self, text: str, add_special_tokens: bool) -> list[bytes]:
        """The tokens of `text` with their positions. See `Tokenizer.format_tokens`."""
        return self._run(TokenizeText(TokenizeWork.FORMAT, text, add_special_tokens)).blocks

    def close(self) -> None:
        """End the process. A method that waits for the process raises `UnhealthyError`."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _run(self, request: TokenizeText) -> TokenizedText:
        with self._lock:
            for _ in range(_MAX_ATTEMPTS):
                reply = None if self._is_closed else self._reply(request)
                if reply is not None:
                    break
        if reply is not None and reply.error:
            raise ValidationError(reply.error)
        if reply is not None:
            return reply
        raise UnhealthyError(
            "The process that tokenizes long texts has ended. Send the request again, or send a"
            " shorter text."
        )

    def _reply(self, request: TokenizeText) -> TokenizedText | None:
        """The reply of the process, or None if the process has ended."""
        try:
            connection = self._started()
            connection.sendall(encode_frame(request))
            parts = [receive_result(connection)]
            while not parts[-1].is_last:
                parts.append(receive_result(connection))
        except (EOFError, OSError):
            self._end()
            return None
        blocks = [block for part in parts for block in part.blocks]
        return TokenizedText(parts[-1].num_tokens, blocks, parts[-1].error)

    def _started(self) -> socket.socket:
        if self._connection is None:
            ours, theirs = socket.socketpair()
            self._connection = ours
            with theirs:
                self._process = subprocess.Popen(
                    [*_COMMAND, str(self._folder)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env=without_secrets(process_environment()),
                )
            if self._is_closed:  # `close` was called before the process existed
                self._process.kill()
        return self._connection

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _column(data: bytes) -> array[int]:
    column: array[int] = array("i")
    column.frombytes(data)
    return column
