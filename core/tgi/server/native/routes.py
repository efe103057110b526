"""TGI's own routes: `POST /`, `/generate`, `/generate_stream`, `/tokenize`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.errors import IncompleteGenerationError, RequestError
from tgi.server.generation.admission import GenerationInput
from tgi.server.generation.compute_headers import response_headers, stream_headers
from tgi.server.generation.output import GeneratedToken, GenerationResult, StopStyle, TopToken
from tgi.server.generation.pipeline import CompletedGeneration, CompletedPrompt, GenerationPipeline
from tgi.server.http.disconnect import run_until_disconnect
from tgi.server.http.json_format import format_f32, format_string
from tgi.server.http.responses import error_body, json_response
from tgi.server.http.routing import read_record
from tgi.server.http.sse import EventStream, event
from tgi.server.native.schemas import CompatGenerateRequest, GenerateParameters, GenerateRequest
from tgi.server.state import ServerState

__all__ = ["NativeRoutes"]


@final
class NativeRoutes:
    """Handlers of the native routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def generate(self, request: Request) -> ASGIApp:
        """`POST /generate`."""
        received = time.perf_counter()
        body = await read_record(request, GenerateRequest, self._state.config.payload_limit)
        full_text = bool(body.parameters.return_full_text)
        return await self._response(request, body, full_text=full_text, received=received)

    async def generate_stream(self, request: Request) -> ASGIApp:
        """`POST /generate_stream`."""
        body = await read_record(request, GenerateRequest, self._state.config.payload_limit)
        return self._stream(body.inputs, body.parameters, bool(body.parameters.return_full_text))

    async def generate_compatible(self, request: Request) -> ASGIApp:
        """`POST /`: the answer in an array, or the same stream as `/generate_stream`."""
        received = time.perf_counter()
        body = await read_record(request, CompatGenerateRequest, self._state.config.payload_limit)
        return await self.response_compatible(request, body, received)

    async def response_compatible(
        self, request: Request, body: CompatGenerateRequest, received: float
    ) -> ASGIApp:
        """The answer of `POST /` to a body already read; the handler began at `received`
        (`time.perf_counter()`).
        """
        requested = body.parameters.return_full_text
        full_text = self._state.config.returns_full_text if requested is None else requested
        if body.stream:
            return self._stream(body.inputs, body.parameters, full_text)
        return await self._response(
            request, body, full_text=full_text, received=received, in_array=True
        )

    async def tokenize(self, request: Request) -> ASGIApp:
        """`POST /tokenize`: the tokens of `inputs` with their byte ranges."""
        body = await read_record(request, GenerateRequest, self._state.config.payload_limit)
        tokens = await self._state.tokenizer.tokenize(body.inputs)
        items = (
            f'{{"id":{t.id},"text":{format_string(t.text)},"start":{t.start},"stop":{t.stop}}}'
            for t in tokens
        )
        return json_response(f"[{','.join(items)}]".encode())

    async def _response(
        self,
        request: Request,
        body: GenerateRequest | CompatGenerateRequest,
        *,
        full_text: bool,
        received: float,
        in_array: bool = False,
    ) -> Response:
        prompt, parameters = body.inputs, body.parameters
        given = GenerationInput(
            prompt, parameters, StopStyle.NATIVE, num_sequences=max(1, parameters.best_of or 1)
        )
        completed = await run_until_disconnect(
            request.receive, self._pipeline.collect(given, received)
        )
        best, *others = completed.best_first
        text_prefix = prompt if full_text else ""
        members = [f'"generated_text":{format_string(text_prefix + best.result.text)}']
        if parameters.details or parameters.decoder_input_details:
            members.append(f'"details":{_details(best, others, parameters, text_prefix)}')
        response = f"{{{','.join(members)}}}"
        if in_array:
            response = f"[{response}]"
        headers = response_headers(self._state.config, [CompletedPrompt(given, [best])])
        return json_response(response.encode(), headers)

    def _stream(self, prompt: str, parameters: GenerateParameters, full_text: bool) -> EventStream:
        given = GenerationInput(prompt, parameters, StopStyle.NATIVE)
        return EventStream(
            self._events(given, prompt if full_text else ""),
            stream_headers(self._state.config, [given]),
        )

    async def _events(self, given: GenerationInput, text_prefix: str) -> AsyncGenerator[str, None]:
        try:
            async with self._pipeline.stream(given) as generation:
                async for tokens in generation:
                    yield "".join(
                        [
                            event(_token_event(token, given.parameters, text_prefix))
                            for token in tokens
                        ]
                    )
        except IncompleteGenerationError as error:
            yield event(
                f'{{"error":{format_string(error.text)},"error_type":"incomplete_generation_stream"}}'
            )
        except RequestError as error:
            yield event(error_body(error).decode())


def _token_event(token: GeneratedToken, parameters: GenerateParameters, text_prefix: str) -> str:
    top = f'"top_tokens":{_top_tokens(token.top_tokens)},' if token.top_tokens else ""
    text, details = "null", "null"
    if token.result is not None:
        text = format_string(text_prefix + token.result.text)
        details = _stream_details(token.result) if parameters.details else "null"
    return (
        f'{{"index":{token.index},"token":{_token(token)},{top}"generated_text":{text},'
        f'"details":{details}}}'
    )


def _stream_details(result: GenerationResult) -> str:
    return (
        f'{{"finish_reason":"{result.finish_reason}","generated_tokens":{result.num_generated_tokens},'
        f'"seed":{_seed(result)},"input_length":{result.input_length}}}'
    )


def _details(
    best: CompletedGeneration,
    others: Sequence[CompletedGeneration],
    parameters: GenerateParameters,
    text_prefix: str,
) -> str:
    members = _sequence_members(best)
    if others:
        sequences = (_best_of_sequence(other, parameters, text_prefix) for other in others)
        members.append(f'"best_of_sequences":[{",".join(sequences)}]')
    if parameters.top_n_tokens:
        members.append(_top_tokens_member(best))
    return f"{{{','.join(members)}}}"


def _best_of_sequence(
    completed: CompletedGeneration, parameters: GenerateParameters, text_prefix: str
) -> str:
    members = [
        f'"generated_text":{format_string(text_prefix + completed.result.text)}',
        *_sequence_members(completed),
    ]
    if parameters.top_n_tokens:
        members.append(_top_tokens_member(completed))
    return f"{{{','.join(members)}}}"


def _sequence_members(completed: CompletedGeneration) -> list[str]:
    result = completed.result
    prefill = (
        f'{{"id":{t.id},"text":{format_string(t.text)},"logprob":{format_f32(t.logprob)}}}'
        for t in result.prefill
    )
    return [
        f'"finish_reason":"{result.finish_reason}"',
        f'"generated_tokens":{result.num_generated_tokens}',
        f'"seed":{_seed(result)}',
        f'"prefill":[{",".join(prefill)}]',
        f'"tokens":[{",".join(map(_token, completed.tokens))}]',
    ]


def _top_tokens_member(completed: CompletedGeneration) -> str:
    return f'"top_tokens":[{",".join(_top_tokens(token.top_tokens) for token in completed.tokens)}]'


def _token(token: GeneratedToken | TopToken) -> str:
    special = "true" if token.special else "false"
    return (
        f'{{"id":{token.id},"text":{format_string(token.text)},'
        f'"logprob":{format_f32(token.logprob)},"special":{special}}}'
    )


def _top_tokens(tokens: Sequence[TopToken]) -> str:
    return f"[{','.join(map(_token, tokens))}]"


def _seed(result: GenerationResult) -> str:
    return "null" if result.seed is None else str(result.seed)
