"""Body of `/v1/responses`, stateless and for text. Source: the OpenAI API reference; `seed` and
`ignore_eos` are extensions.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tgi.server.generation.parameters import F32, U32, U64, ExtensionFields, check_u64

__all__ = ["InputItem", "ResponseTextConfig", "ResponsesRequest"]


class InputItem(msgspec.Struct, frozen=True):
    """One item of the conversation. Without a type it is a message; `content` is a text or a list
    of parts.
    """

    type: str | None = None
    role: str | None = None
    content: Any = None


class ResponseTextConfig(msgspec.Struct, frozen=True):
    """How the text is to look."""

    format: Any = None


class ResponsesRequest(ExtensionFields, frozen=True, kw_only=True):
    """`/v1/responses`."""

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
    store: bool | None = None  # without effect: the answer says that nothing is stored
    # Refused, unless null or without effect:
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    tools: list[Any] | None = None
    truncation: str | None = None
    top_logprobs: U32 | None = None
    include: list[str] | None = None

    def __post_init__(self) -> None:
        """Complete the integer bounds."""
        check_u64(self.seed)
