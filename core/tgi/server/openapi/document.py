"""The OpenAPI 3.0.3 document, made from the records that the routes read and write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import msgspec

from tgi.server.anthropic.schemas import CountTokensRequest, MessagesRequest
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.openai.responses_api_schemas import ResponsesRequest
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.openapi.response_schemas import (
    AnthropicError,
    AnthropicResponse,
    BackendInfo,
    ChatCompletion,
    ChatCompletionChunk,
    ChatTokenizeResponse,
    Completion,
    ErrorResponse,
    GenerateResponse,
    InferResponse,
    Info,
    InputTokens,
    LiveResponse,
    ModelsInfo,
    Response,
    SimpleToken,
    StreamResponse,
    VertexResponse,
)
from tgi.server.platforms.schemas import InferRequest, VertexGenerateInstance, VertexRequest

__all__ = ["openapi_document"]

Json = dict[str, Any]

_TAG = "Text Generation Inference"
_JSON, _EVENTS, _TEXT = "application/json", "text/event-stream", "text/plain"
_REFERENCE = "#/components/schemas/{name}"
_FAILURES = {
    400: "The body is not JSON",
    401: "The API key is missing or wrong",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "The request breaks a rule",
    424: "The backend failed",
    429: "No permit is left",
    500: "The generation ended early",
    503: "The engine does not serve",
}
_TEXT_FAILURES = (400, 413, 415)


@final
@dataclass(frozen=True)
class _Operation:
    """One method of one path. Bodies and answers are types, a tuple means any of them, and None
    means none.
    """

    path: str
    method: str
    name: str
    summary: str
    body: Any = None
    response: Any = None
    streamed: Any = None
    media_type: str = _JSON
    failures: Sequence[int] = ()
    error: Any = ErrorResponse

    @property
    def types(self) -> list[Any]:
        """The types it needs schemas of."""
        members = (self.body, self.response, self.streamed, self.error)
        return [
            kind
            for member in members
            for kind in (member if isinstance(member, tuple) else (member,))
            if kind is not None
        ]


_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_REFINED = {
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
                {"$ref": _REFERENCE.format(name=name)}
                for name in ("VertexGenerateInstance", "ChatRequest")
            ]
        },
        "minItems": 1,
    },
}
"""What the records' types cannot say of a field."""

_GENERATES = (400, 401, 413, 415, 422, 424, 429, 500, 503)
_READS = (400, 413, 415, 422)
_INVOCATION = (CompatGenerateRequest, ChatRequest, CompletionRequest)
_MODEL = "/v2/models/{model}/versions/{version}"

_OPERATIONS = (
    _Operation(
        "/",
        "post",
        "compat_generate",
        "Generate tokens, or with `stream` a stream of them",
        CompatGenerateRequest,
        list[GenerateResponse],
        StreamResponse,
        failures=_GENERATES,
    ),
    _Operation(
        "/generate",
        "post",
        "generate",
        "Generate tokens",
        GenerateRequest,
        GenerateResponse,
        failures=_GENERATES,
    ),
    _Operation(
        "/generate_stream",
        "post",
        "generate_stream",
        "Generate a stream of tokens",
        GenerateRequest,
        streamed=StreamResponse,
        failures=_GENERATES,
    ),
    _Operation(
        "/tokenize",
        "post",
        "tokenize",
        "Tokenize a text",
        GenerateRequest,
        list[SimpleToken],
        failures=(401, *_READS),
    ),
    _Operation(
        "/chat_tokenize",
        "post",
        "get_chat_tokenize",
        "Render and tokenize a chat",
        ChatRequest,
        ChatTokenizeResponse,
        failures=_READS,
    ),
    _Operation(
        "/v1/chat/completions",
        "post",
        "chat_completions",
        "Answer a chat",
        ChatRequest,
        ChatCompletion,
        ChatCompletionChunk,
        failures=_GENERATES,
    ),
    _Operation(
        "/v1/completions",
        "post",
        "completions",
        "Complete texts",
        CompletionRequest,
        Completion,
        Completion,
        failures=_GENERATES,
    ),
    _Operation(
        "/v1/responses",
        "post",
        "create_response",
        "Answer a conversation; nothing is stored",
        ResponsesRequest,
        Response,
        dict[str, Any],
        failures=_GENERATES,
    ),
    _Operation(
        "/v1/messages",
        "post",
        "create_message",
        "Answer a conversation in Anthropic's shapes",
        MessagesRequest,
        AnthropicResponse,
        dict[str, Any],
        failures=(400, 401, 413, 429, 500, 529),
        error=AnthropicError,
    ),
    _Operation(
        "/v1/messages/count_tokens",
        "post",
        "count_message_tokens",
        "Count the input tokens of a conversation",
        CountTokensRequest,
        InputTokens,
        failures=(400, 401, 413),
        error=AnthropicError,
    ),
    _Operation(
        "/invocations",
        "post",
        "sagemaker_compatibility",
        "Generate tokens for SageMaker: a native request, a chat or a completion",
        _INVOCATION,
        (ChatCompletion, Completion, list[GenerateResponse]),
        dict[str, Any],
        failures=_GENERATES,
    ),
    _Operation(
        "/vertex",
        "post",
        "vertex_compatibility",
        "Generate for Vertex AI",
        VertexRequest,
        VertexResponse,
        failures=_GENERATES,
    ),
    _Operation(
        "/v1/models", "get", "openai_get_model_info", "List the served model", response=ModelsInfo
    ),
    _Operation("/info", "get", "get_model_info", "Tell model and limits", response=Info),
    _Operation(
        "/info/backend",
        "get",
        "get_backend_info",
        "Tell the backend and what was agreed with it",
        response=BackendInfo,
    ),
    _Operation("/health", "get", "health", "Check that the engine serves", failures=(503,)),
    _Operation(
        "/ping", "get", "ping", "Check that the engine serves, for SageMaker", failures=(503,)
    ),
    _Operation(
        "/metrics",
        "get",
        "metrics",
        "Tell all metrics for Prometheus",
        response=str,
        media_type=_TEXT,
    ),
    _Operation(
        "/v2",
        "get",
        "kserve_metadata",
        "Tell the server's name, for KServe",
        response=dict[str, Any],
    ),
    _Operation(
        "/v2/health/live",
        "get",
        "kserve_live",
        "Tell that the server lives, for KServe",
        response=LiveResponse,
    ),
    _Operation(
        "/v2/health/ready",
        "get",
        "kserve_ready",
        "Tell that the server is ready, for KServe",
        response=LiveResponse,
    ),
    _Operation(
        _MODEL, "get", "kserve_model", "Tell a model's name, for KServe", response=dict[str, Any]
    ),
    _Operation(
        f"{_MODEL}/ready",
        "get",
        "kserve_model_ready",
        "Tell that a model is ready, for KServe",
        response=LiveResponse,
    ),
    _Operation(
        f"{_MODEL}/infer",
        "post",
        "kserve_infer",
        "Generate for KServe",
        InferRequest,
        InferResponse,
        failures=_GENERATES,
    ),
)


def openapi_document(version: str) -> Json:
    """The document as plain data; `version` is the server's."""
    types = [kind for operation in _OPERATIONS for kind in operation.types]
    types.append(VertexGenerateInstance)  # named by a schema, not by an operation
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for (record, name), refined in _REFINED.items():
        components[record]["properties"][name] = refined
    found = iter(schemas)
    paths: dict[str, Json] = {}
    for operation in _OPERATIONS:
        own = {id(kind): _to_openapi(next(found)) for kind in operation.types}
        for member in (operation.body, operation.response):
            if isinstance(member, tuple):
                own[id(member)] = {"anyOf": [own[id(kind)] for kind in member]}
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, own)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": _TAG,
            "description": (
                "Serves large language models; the wire contract of Text Generation Inference 3,"
                " and more beside it."
            ),
            "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "version": version,
        },
        "tags": [{"name": _TAG}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {name: _to_openapi(schema) for name, schema in sorted(components.items())},
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: _Operation, schemas: dict[int, Json]) -> Json:
    content: Json = {}
    if operation.response is not None:
        content[operation.media_type] = {"schema": schemas[id(operation.response)]}
    if operation.streamed is not None:
        content[_EVENTS] = {"schema": schemas[id(operation.streamed)]}
    responses: Json = {
        "200": {"description": "Success", **({"content": content} if content else {})}
    }
    for status in operation.failures:
        responses[str(status)] = _failure(
            status, schemas[id(operation.error)], operation.error is AnthropicError
        )
    described: Json = {
        "tags": [_TAG],
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": responses,
    }
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": schemas[id(operation.body)]}},
        }
    if 401 in operation.failures:
        described["security"] = [{}, {"api_key": []}]
    return described


def _failure(status: int, error: Json, is_json_only: bool) -> Json:
    described: Json = {"description": _FAILURES.get(status, "The server is overloaded")}
    if status == 422:
        described["content"] = {_JSON: {"schema": error}, _TEXT: {"schema": {"type": "string"}}}
    elif status in _TEXT_FAILURES and not is_json_only:
        described["content"] = {_TEXT: {"schema": {"type": "string"}}}
    elif status != 401:
        described["content"] = {_JSON: {"schema": error}}
    return described


def _to_openapi(schema: Any) -> Any:  # noqa: ANN401 - JSON Schema is any JSON
    """JSON Schema 2020-12 as msgspec writes it, in the words of OpenAPI 3.0: it has `nullable`
    where that has a type null.
    """
    if isinstance(schema, list):
        return [_to_openapi(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _to_openapi(value) for key, value in schema.items()}
    if converted.get("type") == "null":
        return {"nullable": True, "enum": [None]}
    if converted.get("type") == "array":
        converted.setdefault("items", {})
    if "const" in converted:
        converted["enum"] = [converted.pop("const")]
    options = converted.get("anyOf")
    if options is not None and {"type": "null"} in schema["anyOf"]:
        del converted["anyOf"]
        rest = [
            option
            for option in options
            if not (option.get("nullable") and option.get("enum") == [None])
        ]
        converted["nullable"] = True
        if len(rest) == 1 and "$ref" not in rest[0]:
            converted = rest[0] | converted
        else:
            converted["allOf" if len(rest) == 1 else "anyOf"] = rest
    return converted
