"""The OpenAI routes, in small: `/v1/completions` and `/v1/chat/completions` with one prompt and one choice.

Shapes follow the OpenAI API reference; error bodies and statuses are TGI's. What is not served yet is refused by name.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import final

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from tgi.errors import RequestError
from tgi.server.admission import GenerationInput
from tgi.server.disconnect import run_until_disconnect
from tgi.server.generation import GeneratedToken, GenerationResult
from tgi.server.openai_requests import chat_input, completion_input
from tgi.server.openai_schemas import ChatRequest, CompletionRequest, StreamOptions
from tgi.server.pipeline import GenerationPipeline, count_failures, stream_headers
from tgi.server.responses import json_response
from tgi.server.routing import read_record
from tgi.server.sse import DONE, EventStream, event
from tgi.server.state import ServerState
from tgi.types import FinishReason

__all__ = ["OpenAIRoutes"]

_FINISH_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}
_STREAM_ERROR_STATUS = 422  # whatever the error: TGI's streams say no other


@final
@dataclass(frozen=True)
class _Envelope:
    """The members that all objects of one answer share."""

    id: str
    kind: str
    created: int  # s since 1970
    model: str
    system_fingerprint: str

    def encode(self, choices: list[dict[str, object]], usage: dict[str, int] | None) -> bytes:
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": self.kind,
                "created": self.created,
                "model": self.model,
                "system_fingerprint": self.system_fingerprint,
                "choices": choices,
                "usage": usage,
            }
        )


@final
@dataclass(frozen=True)
class _ChunkWriter:
    """Turns the items of a generation into chunks: one per token, the last with the finish reason, then one with the usage."""

    envelope: _Envelope
    choice: Callable[[str, str | None], dict[str, object]]
    has_usage: bool

    def chunks(self, token: GeneratedToken, result: GenerationResult | None) -> Iterator[bytes]:
        """The chunks that a token brings."""
        reason = None if result is None else _FINISH_REASONS[result.finish_reason]
        # A special token is no text in OpenAI's answers; the last one brings along text that was held back.
        text = "" if token.special and result is None else token.text
        yield self.envelope.encode([self.choice(text, reason)], None)
        if result is not None and self.has_usage:
            yield self.envelope.encode([], _usage(result))


@final
class OpenAIRoutes:
    """Handlers of the OpenAI routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def completions(self, request: Request) -> ASGIApp:
        """`POST /v1/completions`."""
        received = time.perf_counter()
        body = await read_record(request, CompletionRequest, self._state.config.payload_limit)
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            given = completion_input(body, self._state.config)
        envelope = self._envelope("cmpl", "text_completion", body.model)
        if body.stream:
            return self._stream(given, _ChunkWriter(envelope, _completion_choice, _has_usage(body.stream_options)))
        completed = await run_until_disconnect(request.receive, self._pipeline.collect(given, received))
        choice = _completion_choice(completed.result.text, _finish_reason(completed.result))
        headers = completed.headers(self._state.config, given.prompt)
        del headers["x-compute-time"]  # the one header that TGI leaves out on this route
        return json_response(envelope.encode([choice], _usage(completed.result)), headers)

    async def chat_completions(self, request: Request) -> ASGIApp:
        """`POST /v1/chat/completions`."""
        received = time.perf_counter()
        body = await read_record(request, ChatRequest, self._state.config.payload_limit)
        self._state.metrics.count_request()
        with count_failures(self._state.metrics):
            given = await chat_input(body, self._state.chat_template)
        if body.stream:
            envelope = self._envelope("chatcmpl", "chat.completion.chunk", body.model)
            return self._stream(given, _ChunkWriter(envelope, _chat_delta, _has_usage(body.stream_options)))
        envelope = self._envelope("chatcmpl", "chat.completion", body.model)
        completed = await run_until_disconnect(request.receive, self._pipeline.collect(given, received))
        choice: dict[str, object] = {
            "index": 0,
            "message": {"role": "assistant", "content": completed.result.text},
            "logprobs": None,
            "finish_reason": _finish_reason(completed.result),
        }
        headers = completed.headers(self._state.config, given.prompt)
        return json_response(envelope.encode([choice], _usage(completed.result)), headers)

    def _envelope(self, id_prefix: str, kind: str, model: str | None) -> _Envelope:
        config = self._state.config
        return _Envelope(
            id=f"{id_prefix}-{secrets.token_hex(12)}",
            kind=kind,
            created=int(time.time()),
            model=config.model_id if model in (None, "tgi") else str(model),
            system_fingerprint=config.system_fingerprint,
        )

    def _stream(self, given: GenerationInput, writer: _ChunkWriter) -> EventStream:
        return EventStream(self._events(given, writer), stream_headers(self._state.config, given.prompt))

    async def _events(self, given: GenerationInput, writer: _ChunkWriter) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._pipeline.stream(given)) as items:
                async for token, result in items:
                    for chunk in writer.chunks(token, result):
                        yield event(chunk)
        except RequestError as error:
            body = {"error": {"message": error.text, "http_status_code": _STREAM_ERROR_STATUS}}
            yield event(msgspec.json.encode(body))
        yield DONE


def _completion_choice(text: str, finish_reason: str | None) -> dict[str, object]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _chat_delta(text: str, finish_reason: str | None) -> dict[str, object]:
    delta = {"role": "assistant", "content": text}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(result: GenerationResult) -> str:
    return _FINISH_REASONS[result.finish_reason]


def _usage(result: GenerationResult) -> dict[str, int]:
    return {
        "prompt_tokens": result.input_length,
        "completion_tokens": result.num_generated_tokens,
        "total_tokens": result.input_length + result.num_generated_tokens,
    }


def _has_usage(options: StreamOptions | None) -> bool:
    return options is not None and bool(options.include_usage)
