"""Types that several packages use. This module imports no other module of the project."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["FinishReason", "Guidance", "ReasoningLimits"]


class FinishReason(enum.StrEnum):
    """The reason why a sequence ended. The values are those of TGI (`proto/v3/generate.proto`)."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105 - a reason, not a secret
    STOP_SEQUENCE = "stop_sequence"


class ReasoningLimits(msgspec.Struct, array_like=True, frozen=True):
    """The reasoning before the final text of a sequence, and its maximum length."""

    start: str  # the tag before the reasoning, for example "<think>"
    end: str  # the tag after the reasoning
    is_open: bool  # the prompt ends inside the reasoning, because the template wrote the first tag
    max_tokens: int = -1  # after this many tokens the closing tag is forced; -1 = no limit


class Guidance(msgspec.Struct, array_like=True, frozen=True):
    """The constraints on the output tokens of one sequence.

    `grammar` is a grammar in the format of llguidance. If the sequence may contain reasoning, the
    grammar begins after it.
    """

    grammar: str = ""  # empty = any text
    reasoning: ReasoningLimits | None = None  # None = the sequence has no reasoning
