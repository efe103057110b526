"""Words shared by several rooms. Plain data; imports nothing of the project."""

from __future__ import annotations

import enum

__all__ = ["FinishReason"]


class FinishReason(enum.StrEnum):
    """Why a sequence ended; the values are TGI's (`proto/v3/generate.proto`)."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105 - a reason, not a secret
    STOP_SEQUENCE = "stop_sequence"
