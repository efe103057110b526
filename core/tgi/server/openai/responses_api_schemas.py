"""The request body of `/v1/responses`. It supports text and functions, and the server stores no
state. The fields are those of the OpenAI API reference, the reasoning options of vLLM, and the
extensions `seed`, `ignore_eos` and `cache_salt`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.server.generation.parameters import F32, U32, U64, OtherConstraints, check_u64
from tgi.server.openai.schemas import JsonObject, JsonObjectOrText, ResponseFormat

__all__ = [
    "InputItem",
    "ResponseReasoning",
    "ResponseTextConfig",
    "ResponseTool",
    "ResponsesRequest",
]

LOGPROBS_NAME = "message.output_text.logprobs"
"""The value of `include` that requests log probabilities."""


class InputItem(msgspec.Struct, frozen=True):
    """One item of the conversation. An item without a type is a message. `content` is a text or a
    list of parts. `summary` belongs to an item with reasoning. The other fields belong to a
    function call and its output.
    """

    type: str | None = None
    role: str | None = None
    content: Any = None
    summary: Any = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Any = None


class ResponseTool(msgspec.Struct, frozen=True):
    """A tool. Only the type `function` is supported. `parameters` is a JSON schema."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: JsonObject = None
    strict: bool | None = None


class ResponseReasoning(msgspec.Struct, frozen=True):
    """Settings of the reasoning. `summary` has no effect, because the response contains the whole
    reasoning.
    """

    effort: str | None = None
    summary: str | None = None


class ResponseTextConfig(msgspec.Struct, frozen=True):
    """Settings of the output text."""

    format: ResponseFormat = None
    verbosity: str | None = None


class ResponsesRequest(OtherConstraints, frozen=True, kw_only=True):
    """Body of `/v1/responses`."""

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: U32 | None = None
    temperature: F32 | None = None
    top_p: F32 | None = None
    stream: bool | None = False
    text: ResponseTextConfig | None = None
    metadata: dict[str, str] | None = None
    seed: U64 | None = None
    store: bool | None = None  # has no effect; `store` is always false in the response
    top_logprobs: U32 | None = None
    include: list[str] | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: JsonObjectOrText = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponseReasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    thinking_token_budget: U32 | None = None
    # These fields are rejected, unless they are null or their value has no effect.
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    truncation: str | None = None

    @property
    def has_logprobs(self) -> bool:
        """Whether the response contains log probabilities. Both fields request them."""
        return bool(self.top_logprobs) or LOGPROBS_NAME in (self.include or ())

    def __post_init__(self) -> None:
        """Check the upper bound of the unsigned 64-bit integers."""
        check_u64(self.seed)
