"""Routes that hosting platforms call: SageMaker's `/invocations`, Vertex AI's `/vertex`, KServe's
`/v2`.

Each is another envelope around the native and the OpenAI routes. Source: TGI 3
`router/src/{sagemaker,vertex,kserve}.rs`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.errors import OverloadedError, RequestError
from tgi.server.generation.admission import GenerationInput
from tgi.server.generation.output import StopStyle
from tgi.server.generation.pipeline import CompletedPrompt, GenerationPipeline, count_failures
from tgi.server.http.disconnect import run_until_disconnect
from tgi.server.http.json_reader import RejectionError
from tgi.server.http.responses import json_response
from tgi.server.http.routing import read_record, read_variant
from tgi.server.native.routes import NativeRoutes
from tgi.server.native.schemas import CompatGenerateRequest, GenerateParameters
from tgi.server.openai.requests import chat_input
from tgi.server.openai.routes import OpenAIRoutes
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.platforms.schemas import InferRequest, VertexGenerateInstance, VertexRequest
from tgi.server.state import ServerState

__all__ = ["PlatformRoutes"]

_NAME = "text-generation-inference"
_VERTEX_SHAPE = "Failed to deserialize the JSON body into the target type: "


@final
class EmptyInstancesError(RequestError):
    """422 of a Vertex request that asks for nothing."""

    status = 422
    error_type = "Input validation error"

    def __init__(self) -> None:
        super().__init__("Input validation error")


@final
class LengthMismatchError(RequestError):
    """422 `length mismatch`."""

    status = 422
    error_type = "length mismatch"

    def __init__(self) -> None:
        super().__init__("Inputs and outputs length mismatch")


@final
class Utf8Error(RequestError):
    """422 `utf8`."""

    status = 422
    error_type = "utf8"


@final
class PlatformRoutes:
    """Handlers of the platforms' routes."""

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

    async def invocations(self, request: Request) -> ASGIApp:
        """`POST /invocations`: the body of `POST /`, of a chat or of a completion, whichever it
        fits first.
        """
        received = time.perf_counter()
        body: CompatGenerateRequest | ChatRequest | CompletionRequest = await read_variant(
            request,
            (CompatGenerateRequest, ChatRequest, CompletionRequest),
            "SagemakerRequest",
            self._state.config.payload_limit,
        )
        match body:
            case CompatGenerateRequest():
                return await self._native.response_compatible(request, body, received)
            case ChatRequest():
                return await self._openai.response_chat(request, body, received)
            case CompletionRequest():
                return await self._openai.response_completions(request, body, received)

    async def vertex(self, request: Request) -> ASGIApp:
        """`POST /vertex`: one text per instance; an instance is a native request or a chat."""
        received = time.perf_counter()
        body = await read_record(request, VertexRequest, self._state.config.payload_limit)
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            if not body.instances:
                raise EmptyInstancesError
            if len(body.instances) > self._state.config.max_concurrent_requests:
                raise OverloadedError
            inputs = [
                await self._vertex_input(instance, index)
                for index, instance in enumerate(body.instances)
            ]
        prompts = await run_until_disconnect(
            request.receive, self._pipeline.collect_all(inputs, received)
        )
        return json_response(
            msgspec.json.encode({"predictions": [_text(prompt) for prompt in prompts]})
        )

    async def server_metadata(self, request: Request) -> Response:
        """`GET /v2`."""
        del request
        extensions = ["health", "models", "metrics"]
        told = {"name": _NAME, "version": self._state.config.version, "extensions": extensions}
        return json_response(msgspec.json.encode(told))

    async def live(self, request: Request) -> Response:
        """`GET /v2/health/live`, and in TGI's words also `/v2/health/ready` and a model's
        `ready`.
        """
        del request
        return json_response(b'{"live":true}')

    async def model_metadata(self, request: Request) -> Response:
        """`GET /v2/models/{model}/versions/{version}`: whatever the names are, they are echoed."""
        names = request.path_params
        told = {
            "name": names["model"],
            "version": names["version"],
            "extensions": ["infer", "ready"],
        }
        return json_response(msgspec.json.encode(told))

    async def infer(self, request: Request) -> Response:
        """`POST /v2/models/{model}/versions/{version}/infer`: texts as arrays of bytes."""
        received = time.perf_counter()
        body = await read_record(request, InferRequest, self._state.config.payload_limit)
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            if len(body.inputs) != len(body.outputs):
                raise LengthMismatchError
            if len(body.inputs) > self._state.config.max_concurrent_requests:
                raise OverloadedError
            inputs = [
                _native_input(_decoded(tensor.data), body.parameters) for tensor in body.inputs
            ]
        prompts = await run_until_disconnect(
            request.receive, self._pipeline.collect_all(inputs, received)
        )
        texts = [_text(prompt).encode() for prompt in prompts]
        outputs = [
            {"name": output.name, "shape": [1, len(text)], "datatype": "BYTES", "data": list(text)}
            for output, text in zip(body.outputs, texts, strict=True)
        ]
        return json_response(msgspec.json.encode({"id": body.id, "outputs": outputs}))

    async def _vertex_input(self, instance: msgspec.Raw, index: int) -> GenerationInput:
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
                return await chat_input(body, self._state)
            return _native_input(body.inputs, body.parameters or GenerateParameters(do_sample=True))
        variant = "data did not match any variant of untagged enum VertexInstance"
        raise RejectionError(422, f"{_VERTEX_SHAPE}instances[{index}]: {variant}")


def _native_input(prompt: str, parameters: GenerateParameters) -> GenerationInput:
    return GenerationInput(
        prompt, parameters, StopStyle.NATIVE, num_sequences=max(1, parameters.best_of or 1)
    )


def _text(prompt: CompletedPrompt) -> str:
    text = prompt.best_first[0].result.text
    return prompt.given.prompt + text if prompt.given.parameters.return_full_text else text


def _decoded(data: Sequence[int]) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise Utf8Error(f"incomplete utf-8 byte sequence from index {error.start}") from None
        raise Utf8Error(
            f"invalid utf-8 sequence of {error.end - error.start} bytes from index {error.start}"
        ) from None
