"""TGI's own routes: `POST /`, `/generate`, `/generate_stream`, `/tokenize`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.errors import IncompleteGenerationError, RequestError
from tgi.server.admission import GenerationInput
from tgi.server.disconnect import run_until_disconnect
from tgi.server.generation import GeneratedToken, GenerationResult, StopStyle, TopToken
from tgi.server.json_format import format_f32, format_string
from tgi.server.pipeline import CompletedGeneration, GenerationPipeline, stream_headers
from tgi.server.responses import error_body, json_response
from tgi.server.routing import read_record
from tgi.server.schemas import CompatGenerateRequest, GenerateParameters, GenerateRequest
from tgi.server.sse import EventStream, event
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
        return await self._answer(request, body, full_text=full_text, received=received)

    async def generate_stream(self, request: Request) -> ASGIApp:
        """`POST /generate_stream`."""
        body = await read_record(request, GenerateRequest, self._state.config.payload_limit)
        return self._stream(body.inputs, body.parameters, bool(body.parameters.return_full_text))

    async def generate_compatible(self, request: Request) -> ASGIApp:
        """`POST /`: the answer in an array, or the same stream as `/generate_stream`."""
        received = time.perf_counter()
        body = await read_record(request, CompatGenerateRequest, self._state.config.payload_limit)
        wished = body.parameters.return_full_text
        full_text = self._state.config.returns_full_text if wished is None else wished
        if body.stream:
            return self._stream(body.inputs, body.parameters, full_text)
        return await self._answer(request, body, full_text=full_text, received=received, in_array=True)

    async def tokenize(self, request: Request) -> ASGIApp:
        """`POST /tokenize`: the tokens of `inputs` with their byte ranges."""
        body = await read_record(request, GenerateRequest, self._state.config.payload_limit)
        tokens = await self._state.tokenizer.tokenize(body.inputs)
        items = (f'{{"id":{t.id},"text":{format_string(t.text)},"start":{t.start},"stop":{t.stop}}}' for t in tokens)
        return json_response(f"[{','.join(items)}]".encode())

    async def _answer(
        self,
        request: Request,
        body: GenerateRequest | CompatGenerateRequest,
        *,
        full_text: bool,
        received: float,
        in_array: bool = False,
    ) -> Response:
        prompt, parameters = body.inputs, body.parameters
        given = GenerationInput(prompt, parameters, StopStyle.NATIVE)
        completed = await run_until_disconnect(request.receive, self._pipeline.collect(given, received))
        text = prompt + completed.result.text if full_text else completed.result.text
        members = [f'"generated_text":{format_string(text)}']
        if parameters.details or parameters.decoder_input_details:
            members.append(f'"details":{_details(completed, parameters)}')
        answer = f"{{{','.join(members)}}}"
        if in_array:
            answer = f"[{answer}]"
        return json_response(answer.encode(), completed.headers(self._state.config, prompt))

    def _stream(self, prompt: str, parameters: GenerateParameters, full_text: bool) -> EventStream:
        events = self._events(GenerationInput(prompt, parameters, StopStyle.NATIVE), prompt if full_text else "")
        return EventStream(events, stream_headers(self._state.config, prompt))

    async def _events(self, given: GenerationInput, text_prefix: str) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._pipeline.stream(given)) as items:
                async for token, result in items:
                    if result is None:
                        yield event(_token_event(token, '"generated_text":null,"details":null'))
                    else:
                        yield event(_last_event(token, result, given.parameters, text_prefix))
        except IncompleteGenerationError as error:
            yield event(f'{{"error":{format_string(error.text)},"error_type":"incomplete_generation_stream"}}'.encode())
        except RequestError as error:
            yield event(error_body(error))


def _token_event(token: GeneratedToken, ending: str) -> bytes:
    top = f'"top_tokens":{_top_tokens(token.top_tokens)},' if token.top_tokens else ""
    return f'{{"index":{token.index},"token":{_token(token)},{top}{ending}}}'.encode()


def _last_event(token: GeneratedToken, result: GenerationResult, parameters: GenerateParameters, text_prefix: str) -> bytes:
    details = "null"
    if parameters.details:
        details = (
            f'{{"finish_reason":"{result.finish_reason}","generated_tokens":{result.num_generated_tokens},'
            f'"seed":{_seed(result)},"input_length":{result.input_length}}}'
        )
    return _token_event(token, f'"generated_text":{format_string(text_prefix + result.text)},"details":{details}')


def _details(completed: CompletedGeneration, parameters: GenerateParameters) -> str:
    result, tokens = completed.result, completed.tokens
    prefill = (f'{{"id":{t.id},"text":{format_string(t.text)},"logprob":{format_f32(t.logprob)}}}' for t in result.prefill)
    members = [
        f'"finish_reason":"{result.finish_reason}"',
        f'"generated_tokens":{result.num_generated_tokens}',
        f'"seed":{_seed(result)}',
        f'"prefill":[{",".join(prefill)}]',
        f'"tokens":[{",".join(map(_token, tokens))}]',
    ]
    if parameters.top_n_tokens:
        members.append(f'"top_tokens":[{",".join(_top_tokens(t.top_tokens) for t in tokens)}]')
    return f"{{{','.join(members)}}}"


def _token(token: GeneratedToken | TopToken) -> str:
    special = "true" if token.special else "false"
    return f'{{"id":{token.id},"text":{format_string(token.text)},"logprob":{format_f32(token.logprob)},"special":{special}}}'


def _top_tokens(tokens: Sequence[TopToken]) -> str:
    return f"[{','.join(map(_token, tokens))}]"


def _seed(result: GenerationResult) -> str:
    return "null" if result.seed is None else str(result.seed)
