"""The tokenizer process: `python -m tgi.text.long_texts.child FOLDER`, with a socket as standard
input. It tokenizes large texts with the tokenizer of the model in FOLDER.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path

from tgi.errors import ModelError, ValidationError
from tgi.text.long_texts.messages import (
    TokenizedText,
    TokenizeText,
    TokenizeWork,
    receive_work,
)
from tgi.text.socket_frames import encode_frame
from tgi.text.tokenizer import Tokenizer

__all__ = ["main", "result_of"]

_NUM_BLOCKS = 32  # in one message


def main(arguments: list[str]) -> int:
    """Process requests until the front end closes the socket. Returns the exit code."""
    # A terminal sends SIGINT to all processes. The front end handles the signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=sys.stdin.fileno())
    try:
        tokenizer = Tokenizer.load(Path(arguments[0]))
    except ModelError:
        return 1
    with contextlib.suppress(EOFError, OSError):
        while True:
            for part in _parts_of(result_of(tokenizer, receive_work(connection))):
                connection.sendall(encode_frame(part))
    return 0


def result_of(tokenizer: Tokenizer, request: TokenizeText) -> TokenizedText:
    """Process one request. If the text cannot be tokenized, the result contains the reason."""
    try:
        match request.work:
            case TokenizeWork.COUNT:
                return TokenizedText(tokenizer.count(request.text, request.add_special_tokens))
            case TokenizeWork.ENCODE:
                ids = tokenizer.encode(request.text, request.add_special_tokens, request.truncate)
                return TokenizedText(len(ids.ids), [_bytes_of(ids.ids)])
            case TokenizeWork.FORMAT:
                blocks = tokenizer.format_tokens(request.text, request.add_special_tokens)
                return TokenizedText(blocks=blocks)
    except ValidationError as error:
        return TokenizedText(error=f"{error}")


def _parts_of(result: TokenizedText) -> Iterator[TokenizedText]:
    first = 0
    while len(result.blocks) - first > _NUM_BLOCKS:
        yield TokenizedText(blocks=result.blocks[first : first + _NUM_BLOCKS], is_last=False)
        first += _NUM_BLOCKS
    yield TokenizedText(result.num_tokens, result.blocks[first:], result.error)


def _bytes_of(numbers: list[int]) -> bytes:
    return array("i", numbers).tobytes()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
