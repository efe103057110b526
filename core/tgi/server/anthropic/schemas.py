"""Request bodies of Anthropic's routes, which support text only. The fields are those of the
Anthropic API reference and the extensions `ignore_eos`, `cache_salt` and `seed`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi.server.generation.parameters import F32, I32, U32, U64, ExtensionFields, check_u64

__all__ = [
    "UNSUPPORTED_FIELDS",
    "AnthropicMessage",
    "ContentBlock",
    "CountTokensRequest",
    "MessagesRequest",
    "SharedFields",
]


Role = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["user", "assistant"]})]
BlockType = Annotated[
    str, msgspec.Meta(extra_json_schema={"enum": ["text", "thinking", "redacted_thinking"]})
]


class ContentBlock(msgspec.Struct, frozen=True):
    """A block of the content of a message: a text, or the thoughts of an earlier message."""

    type: BlockType  # The error message for another type contains that type.
    text: str | None = None
    thinking: str | None = None


class AnthropicMessage(msgspec.Struct, frozen=True):
    """One message of the conversation. If the role of the last message is `assistant`, the
    model continues that message.
    """

    role: Role
    content: str | list[ContentBlock]


UNSUPPORTED_FIELDS = (
    "tools",
    "container",
    "context_management",
    "mcp_servers",
    "output_config",
    "output_format",
)
"""The fields that are rejected, unless they are null or empty."""


class SharedFields(ExtensionFields, frozen=True, kw_only=True):
    """The fields that both routes share."""

    messages: list[AnthropicMessage]
    model: str | None = None
    system: str | list[ContentBlock] | None = None
    thinking: Any = None
    tools: list[Any] | None = None
    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None
    output_config: Any = None
    output_format: Any = None


class CountTokensRequest(SharedFields, frozen=True, kw_only=True):
    """Body of `/v1/messages/count_tokens`."""


class MessagesRequest(SharedFields, frozen=True, kw_only=True):
    """Body of `/v1/messages`."""

    max_tokens: U32
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: F32 | None = None
    top_p: F32 | None = None
    top_k: I32 | None = None
    seed: U64 | None = None

    def __post_init__(self) -> None:
        """Check the upper bound of the unsigned 64-bit integers."""
        check_u64(self.seed)
