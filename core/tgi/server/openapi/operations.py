"""The table of the operations that the OpenAPI document describes, with their schemas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from tgi.server.anthropic.response_schemas import (
    AnthropicError,
    AnthropicModel,
    AnthropicModels,
    AnthropicResponse,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    InputJsonDelta,
    InputTokens,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from tgi.server.anthropic.schemas import CountTokensRequest, MessagesRequest
from tgi.server.http.responses import ErrorResponse
from tgi.server.native.response_schemas import (
    BackendInfo,
    GenerateResponse,
    Info,
    SimpleToken,
    StreamResponse,
)
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.openai.response_schemas import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatTokenizeResponse,
    Completion,
    ModelInfo,
    ModelsInfo,
    OpenAIError,
)
from tgi.server.openai.responses_api_output import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ContentPart,
    ContentPartEvent,
    FunctionCallOutput,
    OutputItem,
    OutputItemEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ReasoningOutput,
    ReasoningText,
    Response,
    ResponseEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.platforms.response_schemas import (
    InferResponse,
    LiveResponse,
    MetadataResponse,
    VertexResponse,
)
from tgi.server.platforms.schemas import InferRequest, VertexGenerateInstance, VertexRequest

__all__ = ["JSON", "OPERATIONS", "REFERENCE", "REFERRED", "REFINED", "Operation"]

JSON, _TEXT = "application/json", "text/plain"
REFERENCE = "#/components/schemas/{name}"


@final
@dataclass(frozen=True)
class Operation:
    """One method of one path. Request and response bodies are given as types. A tuple of types
    allows each of these types, and None means that there is no body.
    """

    path: str
    method: str
    name: str
    summary: str
    body: Any = None
    response: Any = None
    streamed: Any = None
    media_type: str = JSON
    failures: Sequence[int] = ()
    error: Any = ErrorResponse

    @property
    def types(self) -> list[Any]:
        """The types for which the operation needs schemas."""
        members = (self.body, self.response, self.streamed, self.error)
        return [
            kind
            for member in members
            for kind in (member if isinstance(member, tuple) else (member,))
            if kind is not None
        ]


def _any_of(*records: type) -> Any:  # noqa: ANN401 - a schema
    return {"anyOf": [{"$ref": REFERENCE.format(name=record.__name__)} for record in records]}


_OUTPUT_ITEMS = (OutputItem, ReasoningOutput, FunctionCallOutput)
_CONTENT_PARTS = (ContentPart, ReasoningText)
_BLOCKS = (TextBlock, ThinkingBlock, ToolUseBlock)
_BLOCK_DELTAS = (TextDelta, ThinkingDelta, InputJsonDelta, SignatureDelta)
REFERRED = (
    VertexGenerateInstance,
    *_OUTPUT_ITEMS,
    *_CONTENT_PARTS,
    *_BLOCKS,
    *_BLOCK_DELTAS,
)
"""The records to which only the schemas of `REFINED` refer."""

_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
REFINED = {
    ("CompletionRequest", "prompt"): {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            _TOKEN_IDS,
            {"type": "array", "items": _TOKEN_IDS, "minItems": 1},
        ]
    },
    ("VertexRequest", "instances"): {
        "type": "array",
        "items": {
            "anyOf": [
                {"$ref": REFERENCE.format(name=name)}
                for name in ("VertexGenerateInstance", "ChatRequest")
            ]
        },
        "minItems": 1,
    },
    ("Response", "output"): {"type": "array", "items": _any_of(*_OUTPUT_ITEMS)},
    ("OutputItemEvent", "item"): _any_of(*_OUTPUT_ITEMS),
    ("ContentPartEvent", "part"): _any_of(*_CONTENT_PARTS),
    ("AnthropicResponse", "content"): {"type": "array", "items": _any_of(*_BLOCKS)},
    ("ContentBlockStart", "content_block"): _any_of(*_BLOCKS),
    ("ContentBlockDelta", "delta"): _any_of(*_BLOCK_DELTAS),
    ("ToolUseBlock", "input"): {"type": "object"},
}
"""The schemas of fields that the records' types cannot describe."""

_GENERATES = (400, 401, 413, 415, 422, 424, 429, 500, 503)
_TOKENIZES = (400, 401, 413, 415, 422, 429)
_INVOCATION = (CompatGenerateRequest, ChatRequest, CompletionRequest)
_MODEL = "/v2/models/{model}/versions/{version}"

OPERATIONS = (
    Operation(
        "/",
        "post",
        "compat_generate",
        "Generate tokens, or with `stream` a stream of them",
        CompatGenerateRequest,
        list[GenerateResponse],
        StreamResponse,
        failures=_GENERATES,
    ),
    Operation(
        "/generate",
        "post",
        "generate",
        "Generate tokens",
        GenerateRequest,
        GenerateResponse,
        failures=_GENERATES,
    ),
    Operation(
        "/generate_stream",
        "post",
        "generate_stream",
        "Generate a stream of tokens",
        GenerateRequest,
        streamed=StreamResponse,
        failures=_GENERATES,
    ),
    Operation(
        "/tokenize",
        "post",
        "tokenize",
        "Tokenize a text",
        GenerateRequest,
        list[SimpleToken],
        failures=_TOKENIZES,
    ),
    Operation(
        "/chat_tokenize",
        "post",
        "get_chat_tokenize",
        "Render and tokenize a chat",
        ChatRequest,
        ChatTokenizeResponse,
        failures=_TOKENIZES,
    ),
    Operation(
        "/v1/chat/completions",
        "post",
        "chat_completions",
        "Respond to a chat",
        ChatRequest,
        ChatCompletion,
        ChatCompletionChunk,
        failures=_GENERATES,
        error=OpenAIError,
    ),
    Operation(
        "/v1/completions",
        "post",
        "completions",
        "Complete texts",
        CompletionRequest,
        Completion,
        Completion,
        failures=_GENERATES,
        error=OpenAIError,
    ),
    Operation(
        "/v1/responses",
        "post",
        "create_response",
        "Respond to a conversation without storing it",
        ResponsesRequest,
        Response,
        (
            ResponseEvent,
            OutputItemEvent,
            ContentPartEvent,
            TextDeltaEvent,
            TextDoneEvent,
            ReasoningDeltaEvent,
            ReasoningDoneEvent,
            ArgumentsDeltaEvent,
            ArgumentsDoneEvent,
        ),
        failures=_GENERATES,
        error=OpenAIError,
    ),
    Operation(
        "/v1/messages",
        "post",
        "create_message",
        "Respond to a conversation in Anthropic's format",
        MessagesRequest,
        AnthropicResponse,
        (
            MessageStart,
            ContentBlockStart,
            ContentBlockDelta,
            ContentBlockStop,
            MessageDelta,
            MessageStop,
            AnthropicError,
        ),
        failures=(400, 401, 413, 429, 500, 529),
        error=AnthropicError,
    ),
    Operation(
        "/v1/messages/count_tokens",
        "post",
        "count_message_tokens",
        "Count the input tokens of a conversation",
        CountTokensRequest,
        InputTokens,
        failures=(400, 401, 413, 429),
        error=AnthropicError,
    ),
    Operation(
        "/invocations",
        "post",
        "sagemaker_compatibility",
        "Generate tokens for SageMaker: a native request, a chat or a completion",
        _INVOCATION,
        (ChatCompletion, Completion, list[GenerateResponse]),
        (StreamResponse, ChatCompletionChunk, Completion),
        failures=_GENERATES,
    ),
    Operation(
        "/vertex",
        "post",
        "vertex_compatibility",
        "Generate for Vertex AI",
        VertexRequest,
        VertexResponse,
        failures=_GENERATES,
    ),
    Operation(
        "/v1/models",
        "get",
        "openai_get_model_info",
        "List the served model",
        response=(ModelsInfo, AnthropicModels),
    ),
    Operation(
        "/v1/models/{model}",
        "get",
        "retrieve_model",
        "Return the served model",
        response=(ModelInfo, AnthropicModel),
        failures=(404,),
        error=OpenAIError,
    ),
    Operation("/info", "get", "get_model_info", "Return the model and the limits", response=Info),
    Operation(
        "/info/backend",
        "get",
        "get_backend_info",
        "Return the backend and the negotiated limits",
        response=BackendInfo,
    ),
    Operation("/health", "get", "health", "Check that the engine serves", failures=(503,)),
    Operation(
        "/ping", "get", "ping", "Check that the engine serves, for SageMaker", failures=(503,)
    ),
    Operation(
        "/metrics",
        "get",
        "metrics",
        "Return all metrics for Prometheus",
        response=str,
        media_type=_TEXT,
    ),
    Operation(
        "/v2",
        "get",
        "kserve_metadata",
        "Return the server's name, for KServe",
        response=MetadataResponse,
    ),
    Operation(
        "/v2/health/live",
        "get",
        "kserve_live",
        "Check that the server is running, for KServe",
        response=LiveResponse,
    ),
    Operation(
        "/v2/health/ready",
        "get",
        "kserve_ready",
        "Check that the server is ready, for KServe",
        response=LiveResponse,
    ),
    Operation(
        _MODEL,
        "get",
        "kserve_model",
        "Return a model's name, for KServe",
        response=MetadataResponse,
    ),
    Operation(
        f"{_MODEL}/ready",
        "get",
        "kserve_model_ready",
        "Check that a model is ready, for KServe",
        response=LiveResponse,
    ),
    Operation(
        f"{_MODEL}/infer",
        "post",
        "kserve_infer",
        "Generate for KServe",
        InferRequest,
        InferResponse,
        failures=_GENERATES,
    ),
)
