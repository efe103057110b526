"""Request bodies of the OpenAI routes.

The fields are those of the OpenAI API reference, the constraints and reasoning options of vLLM, and
the extensions `ignore_eos`, `cache_salt` and `repetition_penalty`. A field may be null if OpenAI
allows it. As in TGI, unknown fields are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi.server.generation.parameters import F32, U32, U64, ExtensionFields, check_u64

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "ChatTool",
    "CompletionRequest",
    "FunctionDefinition",
    "JsonObject",
    "JsonObjectOrText",
    "ResponseFormat",
    "StreamOptions",
]


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


_OBJECT = {"type": "object"}
_OBJECT_OR_TEXT = {"anyOf": [_OBJECT, {"type": "string"}], "nullable": True}

JsonObject = Annotated[Any, msgspec.Meta(extra_json_schema={**_OBJECT, "nullable": True})]
JsonObjectOrText = Annotated[Any, msgspec.Meta(extra_json_schema=_OBJECT_OR_TEXT)]
ResponseFormat = Annotated[
    Any,
    msgspec.Meta(
        extra_json_schema={
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {
                    "type": "string",
                    "enum": ["text", "json_object", "json_schema", "json", "regex"],
                },
                "json_schema": _OBJECT,
                "schema": _OBJECT,
                "value": {},
            },
            "nullable": True,
        }
    ),
]
StructuredOutputs = Annotated[
    Any,
    msgspec.Meta(
        extra_json_schema={
            "type": "object",
            "properties": {
                "json": _OBJECT_OR_TEXT,
                "regex": {"type": "string"},
                "choice": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "grammar": {"type": "string"},
                "json_object": {"type": "boolean"},
            },
            "nullable": True,
        }
    ),
]


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a streamed response."""

    include_usage: bool | None = False


class _SharedFields(ExtensionFields, frozen=True, kw_only=True):
    """The fields that both routes share."""

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
    response_format: ResponseFormat = None
    # The constraints of vLLM. At most one constraint may be used.
    structured_outputs: StructuredOutputs = None
    guided_json: JsonObjectOrText = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: Any = None  # the field of TGI's own API; rejected, unless null


class CompletionRequest(_SharedFields, frozen=True, kw_only=True):
    """Body of `/v1/completions`. `prompt` is a text, a list of token ids, or a list of either."""

    prompt: Annotated[str | list[Any], msgspec.Meta(title="PromptDeserializer")]
    best_of: U32 | None = None
    echo: bool | None = None
    logprobs: U32 | bool | None = None
    suffix: str | None = None  # rejected, unless null

    def __post_init__(self) -> None:
        """Check the upper bound of the unsigned 64-bit integers."""
        check_u64(self.seed)


class FunctionDefinition(msgspec.Struct, frozen=True):
    """A function that the model may call. `parameters` is a JSON schema. TGI also accepts the name
    `arguments` for it.
    """

    name: str
    description: str | None = None
    parameters: JsonObject = None
    arguments: JsonObject = None
    strict: bool | None = None


class ChatTool(msgspec.Struct, frozen=True):
    """A tool. Only functions are supported."""

    type: str
    function: FunctionDefinition | None = None


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a chat. `content` is a text or a list of parts. The fields of tool calls and
    of the reasoning are passed to the chat template unchanged. A refusal without content is the
    text of the message.
    """

    role: str
    content: Content = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class ChatRequest(_SharedFields, frozen=True, kw_only=True):
    """Body of `/v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: U32 | None = None
    logprobs: bool | None = None
    top_logprobs: U32 | None = None
    tools: list[ChatTool] | None = None
    tool_choice: JsonObjectOrText = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking_token_budget: U32 | None = None
    verbosity: str | None = None
    # These fields are rejected, unless they are null or their value has no effect.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None

    def __post_init__(self) -> None:
        """Check the upper bound of the unsigned 64-bit integers."""
        check_u64(self.seed)
