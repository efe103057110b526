"""Types that several packages use. This module imports no other module of the project."""

from __future__ import annotations

import enum

__all__ = ["FinishReason"]


class FinishReason(enum.StrEnum):
    """The reason why a sequence ended. The values are those of TGI (`proto/v3/generate.proto`)."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105 - a reason, not a secret
    STOP_SEQUENCE = "stop_sequence"
