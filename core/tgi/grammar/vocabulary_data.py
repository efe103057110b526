"""The tokens of a model as plain data. Unlike `vocabulary.py`, this module does not import
llguidance, so that a server without guided requests does not load the library.
"""

from __future__ import annotations

import msgspec

__all__ = ["VocabularyData"]


class VocabularyData(msgspec.Struct, array_like=True, frozen=True):
    """The tokens of a model. The front end sends them to the engine process."""

    tokens: list[bytes]  # the bytes of ids 0, 1, …; empty = no text, such an id is never allowed
    special_ids: list[int]  # allowed only as EOS, or where a grammar names the token
    eos_token_ids: tuple[int, ...]
    vocab_size: int  # number of logits of the model; may differ from the number of tokens
