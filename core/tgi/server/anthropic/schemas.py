"""Request bodies of Anthropic's routes, which support text and tools. The fields are those of the
Anthropic API reference and the extensions `ignore_eos`, `cache_salt` and `seed`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi.server.generation.parameters import F32, I32, U32, U64, OtherConstraints, check_u64

__all__ = [
    "UNSUPPORTED_FIELDS",
    "AnthropicMessage",
    "AnthropicTool",
    "AnthropicToolChoice",
    "ContentBlock",
    "CountTokensRequest",
    "MessagesRequest",
    "OutputConfig",
    "SharedFields",
]


Role = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["user", "assistant"]})]
_BLOCK_TYPES = ["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]
BlockType = Annotated[str, msgspec.Meta(extra_json_schema={"enum": _BLOCK_TYPES})]
_OBJECT = {"type": "object", "nullable": True}
JsonObject = Annotated[Any, msgspec.Meta(extra_json_schema=_OBJECT)]
_RESULT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}], "nullable": True}
ResultContent = Annotated[Any, msgspec.Meta(extra_json_schema=_RESULT)]


class ContentBlock(msgspec.Struct, frozen=True):
    """A block of the content of a message: a text, the thoughts of an earlier message, a tool call,
    or the result of a tool call.
    """

    type: BlockType  # The error message for another type contains that type.
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: JsonObject = None
    tool_use_id: str | None = None
    content: ResultContent = None
    is_error: bool | None = None


class AnthropicMessage(msgspec.Struct, frozen=True):
    """One message of the conversation. If the role of the last message is `assistant`, the
    model continues that message.
    """

    role: Role
    content: str | list[ContentBlock]


class AnthropicTool(msgspec.Struct, frozen=True):
    """A tool. Tools with another type than `custom` are not supported."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: JsonObject = None
    strict: bool | None = None


class AnthropicToolChoice(msgspec.Struct, frozen=True):
    """The tool choice: `auto`, `any`, `tool` with a name, or `none`."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputConfig(msgspec.Struct, frozen=True):
    """Settings of the output."""

    effort: str | None = None
    format: JsonObject = None


UNSUPPORTED_FIELDS = ("container", "context_management", "mcp_servers")
"""The fields that are rejected, unless they are null or empty."""


class SharedFields(OtherConstraints, frozen=True, kw_only=True):
    """The fields that both routes share."""

    messages: list[AnthropicMessage]
    model: str | None = None
    system: str | list[ContentBlock] | None = None
    thinking: Any = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: JsonObject = None  # the former name of `output_config.format`
    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None


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
