"""Request bodies of Anthropic's routes, which support text only. The fields are those of the
Anthropic API reference and the extensions `ignore_eos`, `cache_salt` and `seed`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi.server.generation.parameters import F32, I32, U32, U64, ExtensionFields, check_u64

__all__ = ["AnthropicMessage", "ContentBlock", "CountTokensRequest", "MessagesRequest"]


Role = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["user", "assistant"]})]
TextType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["text"]})]


class ContentBlock(msgspec.Struct, frozen=True):
    """A block of the content of a message."""

    type: TextType  # The error message for another type contains that type.
    text: str | None = None


class AnthropicMessage(msgspec.Struct, frozen=True):
    """One message of the conversation. If the role of the last message is `assistant`, the
    model continues that message.
    """

    role: Role
    content: str | list[ContentBlock]


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `/v1/messages/count_tokens`."""

    messages: list[AnthropicMessage]
    model: str | None = None
    system: str | list[ContentBlock] | None = None
    # These fields are rejected, unless they are null or their value has no effect.
    tools: list[Any] | None = None
    thinking: Any = None


class MessagesRequest(ExtensionFields, frozen=True, kw_only=True):
    """Body of `/v1/messages`."""

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
    # These fields are rejected, unless they are null or their value has no effect.
    tools: list[Any] | None = None
    thinking: Any = None

    def __post_init__(self) -> None:
        """Check the upper bound of the unsigned 64-bit integers."""
        check_u64(self.seed)
