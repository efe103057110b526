"""Bodies of the OpenAI routes; null wherever OpenAI allows it.

Source: the OpenAI API reference; `ignore_eos` and `repetition_penalty` are extensions. Unknown
fields are ignored, as in TGI.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi.server.generation.parameters import F32, U32, U64, ExtensionFields, check_u64

__all__ = ["ChatMessage", "ChatRequest", "CompletionRequest", "StreamOptions"]


_CONTENT_FORMS = [
    {"type": "string"},
    {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "text"],
            "properties": {
                "type": {"type": "string", "enum": ["text"]},
                "text": {"type": "string"},
            },
        },
    },
]
Content = Annotated[
    Any, msgspec.Meta(extra_json_schema={"anyOf": _CONTENT_FORMS, "nullable": True})
]


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream carries beside text."""

    include_usage: bool | None = False


class _SharedFields(ExtensionFields, frozen=True, kw_only=True):
    """The fields of both routes."""

    model: str | None = None
    max_tokens: U32 | None = None
    temperature: F32 | None = None
    top_p: F32 | None = None
    n: U32 | None = None
    seed: U64 | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, F32] | list[F32] | None = None
    presence_penalty: F32 | None = None
    frequency_penalty: F32 | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    repetition_penalty: F32 | None = None


class CompletionRequest(_SharedFields, frozen=True, kw_only=True):
    """`/v1/completions`. A prompt is a text, token ids, or a list of either."""

    prompt: Annotated[str | list[Any], msgspec.Meta(title="PromptDeserializer")]
    best_of: U32 | None = None
    echo: bool | None = None
    logprobs: U32 | bool | None = None
    suffix: str | None = None  # refused

    def __post_init__(self) -> None:
        """Complete the integer bounds."""
        check_u64(self.seed)


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message; `content` is a text or a list of parts. Fields of tool calls go to the template
    as they came.
    """

    role: str
    content: Content = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None


class ChatRequest(_SharedFields, frozen=True, kw_only=True):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: U32 | None = None
    logprobs: bool | None = None
    top_logprobs: U32 | None = None
    # Refused, unless null or without effect:
    tools: list[Any] | None = None
    tool_choice: Any = None
    tool_prompt: str | None = None
    response_format: Any = None
    functions: Any = None
    modalities: Any = None
    audio: Any = None

    def __post_init__(self) -> None:
        """Complete the integer bounds; the two names of one limit exclude each other."""
        check_u64(self.seed)
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("duplicate field `max_tokens`")
