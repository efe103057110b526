"""Bodies of Anthropic's routes, for text. Source: the Anthropic API reference; `ignore_eos` and
`seed` are extensions.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi.server.generation.parameters import F32, I32, U32, U64, ExtensionFields, check_u64

__all__ = ["AnthropicMessage", "ContentBlock", "CountTokensRequest", "MessagesRequest"]


Role = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["user", "assistant"]})]
TextType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["text"]})]


class ContentBlock(msgspec.Struct, frozen=True):
    """A part of a message."""

    type: TextType  # another is refused by name
    text: str | None = None


class AnthropicMessage(msgspec.Struct, frozen=True):
    """One turn; a last one of the assistant is continued."""

    role: Role
    content: str | list[ContentBlock]


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`/v1/messages/count_tokens`."""

    messages: list[AnthropicMessage]
    model: str | None = None
    system: str | list[ContentBlock] | None = None
    # Refused, unless null or without effect:
    tools: list[Any] | None = None
    thinking: Any = None


class MessagesRequest(ExtensionFields, frozen=True, kw_only=True):
    """`/v1/messages`."""

    messages: list[AnthropicMessage]
    max_tokens: U32
    model: str | None = None
    system: str | list[ContentBlock] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: F32 | None = None
    top_p: F32 | None = None
    top_k: I32 | None = None
    seed: U64 | None = None
    # Refused, unless null or without effect:
    tools: list[Any] | None = None
    thinking: Any = None

    def __post_init__(self) -> None:
        """Complete the integer bounds."""
        check_u64(self.seed)
