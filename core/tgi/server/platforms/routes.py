"""Routes of hosting platforms: SageMaker's `/invocations`, Vertex AI's `/vertex` and KServe's
`/v2`.

The routes convert their bodies to requests of the native and the OpenAI routes. Source: TGI 3
`router/src/{sagemaker,vertex,kserve}.rs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.errors import OverloadedError, RequestError
from tgi.server.generation.output import GeneratedSequence
from tgi.server.generation.parameters import GenerateParameters, TextRequest
from tgi.server.generation.pipeline import GenerationPipeline, best_first
from tgi.server.generation.protocols import NATIVE
from tgi.server.http.json_reader import RejectionError
from tgi.server.http.responses import json_response
from tgi.server.native.routes import NativeRoutes, native_request
from tgi.server.native.schemas import CompatGenerateRequest
from tgi.server.openai.requests import chat_request
from tgi.server.openai.routes import OpenAIRoutes
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.platforms.response_schemas import (
    InferOutputTensor,
    InferResponse,
    LiveResponse,
    MetadataResponse,
    VertexResponse,
)
from tgi.server.platforms.schemas import InferRequest, VertexGenerateInstance, VertexRequest
from tgi.server.state import ServerState

__all__ = ["PlatformRoutes"]

_NAME = "text-generation-inference"
_VERTEX_SHAPE = "Failed to deserialize the JSON body into the target type: "


@final
class EmptyInstancesError(RequestError):
    """Error 422 for a Vertex AI request without instances."""

    status = 422
    error_type = "Input validation error"

    def __init__(self) -> None:
        super().__init__("Input validation error")


@final
class LengthMismatchError(RequestError):
    """Error 422 `length mismatch` for a KServe request with unequal inputs and outputs."""

    status = 422
    error_type = "length mismatch"

    def __init__(self) -> None:
        super().__init__("Inputs and outputs length mismatch")


@final
class Utf8Error(RequestError):
    """Error 422 `utf8` for a KServe tensor whose bytes are not UTF-8."""

    status = 422
    error_type = "utf8"


@final
class PlatformRoutes:
    """Handlers of the routes of hosting platforms."""

    def __init__(
        self,
        state: ServerState,
        pipeline: GenerationPipeline,
        native: NativeRoutes,
        openai: OpenAIRoutes,
    ) -> None:
        self._state = state
        self._pipeline = pipeline
        self._native = native
        self._openai = openai

    async def invocations(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /invocations`. The body is handled as a body of `POST /`, of a chat
        completion or of a completion. The first matching schema is used.
        """
        variants: Sequence[type[CompatGenerateRequest | ChatRequest | CompletionRequest]] = (
            CompatGenerateRequest,
            ChatRequest,
            CompletionRequest,
        )
        call, body = await self._pipeline.read_variant(http_request, variants, "SagemakerRequest")
        match body:
            case CompatGenerateRequest():
                return await self._native.response_compatible(call, body)
            case ChatRequest():
                return await self._openai.response_chat(call, body, NATIVE)
            case CompletionRequest():
                return await self._openai.response_completions(call, body, NATIVE)

    async def vertex(self, http_request: HttpRequest) -> ASGIApp:
        """Handle `POST /vertex`. The response has one text per instance. An instance is a native
        request or a chat.
        """
        call, body = await self._pipeline.read(http_request, VertexRequest)
        with self._pipeline.counted():
            if not body.instances:
                raise EmptyInstancesError
            if len(body.instances) > self._state.config.max_concurrent_requests:
                raise OverloadedError
            requests = [
                await self._vertex_request(instance, index)
                for index, instance in enumerate(body.instances)
            ]
        texts = _texts(requests, await self._pipeline.collect_all(call, requests))
        return json_response(msgspec.json.encode(VertexResponse(texts)))

    async def server_metadata(self, http_request: HttpRequest) -> Response:
        """Handle `GET /v2`."""
        del http_request
        extensions = ["health", "models", "metrics"]
        metadata = MetadataResponse(_NAME, self._state.config.version, extensions)
        return json_response(msgspec.json.encode(metadata))

    async def live(self, http_request: HttpRequest) -> Response:
        """Handle `GET /v2/health/live`, `/v2/health/ready` and the `ready` route of a model. As in
        TGI, all three have the same response.
        """
        del http_request
        return json_response(msgspec.json.encode(LiveResponse(live=True)))

    async def model_metadata(self, http_request: HttpRequest) -> Response:
        """Handle `GET /v2/models/{model}/versions/{version}`. The response contains the name and
        the version of the path, even if the server has no such model.
        """
        names = http_request.path_params
        metadata = MetadataResponse(names["model"], names["version"], ["infer", "ready"])
        return json_response(msgspec.json.encode(metadata))

    async def infer(self, http_request: HttpRequest) -> Response:
        """Handle `POST /v2/models/{model}/versions/{version}/infer`. Texts are arrays of UTF-8
        bytes.
        """
        call, body = await self._pipeline.read(http_request, InferRequest)
        with self._pipeline.counted():
            if len(body.inputs) != len(body.outputs):
                raise LengthMismatchError
            if len(body.inputs) > self._state.config.max_concurrent_requests:
                raise OverloadedError
            requests = [
                native_request(_decoded(tensor.data), body.parameters) for tensor in body.inputs
            ]
        texts = _texts(requests, await self._pipeline.collect_all(call, requests))
        outputs = [
            InferOutputTensor(output.name, [1, len(data)], "BYTES", list(data))
            for output, data in zip(body.outputs, map(str.encode, texts), strict=True)
        ]
        return json_response(msgspec.json.encode(InferResponse(body.id, outputs)))

    async def _vertex_request(self, instance: msgspec.Raw, index: int) -> TextRequest:
        records: Sequence[type[VertexGenerateInstance | ChatRequest]] = (
            VertexGenerateInstance,
            ChatRequest,
        )
        for record in records:
            try:
                body = msgspec.json.decode(instance, type=record)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(body, ChatRequest):
                return await chat_request(body, self._state, NATIVE)
            return native_request(
                body.inputs, body.parameters or GenerateParameters(do_sample=True)
            )
        variant = "data did not match any variant of untagged enum VertexInstance"
        raise RejectionError(422, f"{_VERTEX_SHAPE}instances[{index}]: {variant}")


def _texts(
    requests: Sequence[TextRequest], results: Sequence[Sequence[GeneratedSequence]]
) -> list[str]:
    """The best text of each request. The prompt precedes it if `return_full_text` is set."""
    return [
        (request.prompt if request.parameters.return_full_text else "")
        + best_first(sequences)[0].text
        for request, sequences in zip(requests, results, strict=True)
    ]


def _decoded(data: Sequence[int]) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise Utf8Error(f"incomplete utf-8 byte sequence from index {error.start}") from None
        raise Utf8Error(
            f"invalid utf-8 sequence of {error.end - error.start} bytes from index {error.start}"
        ) from None
