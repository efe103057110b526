"""Unique ids of tool calls."""

from __future__ import annotations

import secrets
import string

__all__ = ["new_call_id", "new_short_call_id"]

_ALPHABET = string.ascii_letters + string.digits
_SHORT_LENGTH = 9


def new_call_id() -> str:
    """A unique id in OpenAI's form."""
    return f"call_{secrets.token_hex(12)}"


def new_short_call_id() -> str:
    """A unique id of nine letters and digits. The chat templates of Mistral reject other ids."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SHORT_LENGTH))
