"""TGI's native routes: `POST /`, `/generate`, `/generate_stream` and `/tokenize`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import final

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from tgi.errors import IncompleteGenerationError, RequestError
from tgi.server.generation.output import GeneratedSequence, GeneratedToken, ScoredToken
from tgi.server.generation.parameters import GenerateParameters, StopStyle, TextRequest
from tgi.server.generation.pipeline import (
    GenerationPipeline,
    HttpCall,
    best_first,
    response_headers,
    stream_headers,
)
from tgi.server.http.json_format import format_f32, format_string
from tgi.server.http.responses import error_body, json_response
from tgi.server.http.sse import EventStream, event
from tgi.server.native.schemas import CompatGenerateRequest, GenerateRequest
from tgi.server.state import ServerState

__all__ = ["NativeRoutes", "native_request"]


@final
class NativeRoutes:
    """Handlers of the native routes."""

    def __init__(self, state: ServerState, pipeline: GenerationPipeline) -> None:
        self._state = state
        self._pipeline = pipeline

    async def generate(self, http_request: HttpRequest) -> ASGIApp:
        """`POST /generate`."""
        call, body = await self._pipeline.read(http_request, GenerateRequest)
        return await self._response(call, body, full_text=bool(body.parameters.return_full_text))

    async def generate_stream(self, http_request: HttpRequest) -> ASGIApp:
        """`POST /generate_stream`."""
        _, body = await self._pipeline.read(http_request, GenerateRequest)
        return self._stream(body.inputs, body.parameters, bool(body.parameters.return_full_text))

    async def generate_compatible(self, http_request: HttpRequest) -> ASGIApp:
        """`POST /`: the response in a JSON array, or the same stream as `/generate_stream`."""
        call, body = await self._pipeline.read(http_request, CompatGenerateRequest)
        return await self.response_compatible(call, body)

    async def response_compatible(self, call: HttpCall, body: CompatGenerateRequest) -> ASGIApp:
        """The response of `POST /` to a parsed body."""
        requested = body.parameters.return_full_text
        full_text = self._state.config.returns_full_text if requested is None else requested
        if body.stream:
            return self._stream(body.inputs, body.parameters, full_text)
        return await self._response(call, body, full_text=full_text, in_array=True)

    async def tokenize(self, http_request: HttpRequest) -> ASGIApp:
        """`POST /tokenize`: the tokens of `inputs` with their byte ranges."""
        _, body = await self._pipeline.read(http_request, GenerateRequest)
        tokens = await self._state.tokenizer.tokenize(body.inputs)
        items = (
            f'{{"id":{t.id},"text":{format_string(t.text)},"start":{t.start},"stop":{t.stop}}}'
            for t in tokens
        )
        return json_response(f"[{','.join(items)}]".encode())

    async def _response(
        self,
        call: HttpCall,
        body: GenerateRequest | CompatGenerateRequest,
        *,
        full_text: bool,
        in_array: bool = False,
    ) -> Response:
        parameters = body.parameters
        request = native_request(body.inputs, parameters)
        best, *others = best_first(await self._pipeline.collect(call, request))
        text_prefix = request.prompt if full_text else ""
        members = [f'"generated_text":{format_string(text_prefix + best.text)}']
        if parameters.details or parameters.decoder_input_details:
            members.append(f'"details":{_details(best, others, parameters, text_prefix)}')
        response = f"{{{','.join(members)}}}"
        if in_array:
            response = f"[{response}]"
        headers = response_headers(self._state.config, [request], [[best]])
        return json_response(response.encode(), headers)

    def _stream(self, prompt: str, parameters: GenerateParameters, full_text: bool) -> EventStream:
        request = TextRequest(prompt, parameters, StopStyle.NATIVE)
        return EventStream(
            self._events(request, prompt if full_text else ""),
            stream_headers(self._state.config, [request]),
        )

    async def _events(self, request: TextRequest, text_prefix: str) -> AsyncGenerator[str, None]:
        parameters = request.parameters
        try:
            async with self._pipeline.stream(request) as generation:
                async for tokens in generation:
                    yield "".join(
                        [event(_token_event(token, parameters, text_prefix)) for token in tokens]
                    )
        except IncompleteGenerationError as error:
            yield event(
                f'{{"error":{format_string(error.text)},'
                '"error_type":"incomplete_generation_stream"}'
            )
        except RequestError as error:
            yield event(error_body(error).decode())


def native_request(prompt: str, parameters: GenerateParameters) -> TextRequest:
    """Create the request for a native body. The response must not be streamed."""
    return TextRequest(
        prompt, parameters, StopStyle.NATIVE, num_sequences=max(1, parameters.best_of or 1)
    )


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


def _stream_details(result: GeneratedSequence) -> str:
    return (
        f'{{"finish_reason":"{result.finish_reason}",'
        f'"generated_tokens":{result.num_generated_tokens},'
        f'"seed":{_seed(result)},"input_length":{result.input_length}}}'
    )


def _details(
    best: GeneratedSequence,
    others: Sequence[GeneratedSequence],
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
    sequence: GeneratedSequence, parameters: GenerateParameters, text_prefix: str
) -> str:
    members = [
        f'"generated_text":{format_string(text_prefix + sequence.text)}',
        *_sequence_members(sequence),
    ]
    if parameters.top_n_tokens:
        members.append(_top_tokens_member(sequence))
    return f"{{{','.join(members)}}}"


def _sequence_members(sequence: GeneratedSequence) -> list[str]:
    prefill = (
        f'{{"id":{t.id},"text":{format_string(t.text)},"logprob":{format_f32(t.logprob)}}}'
        for t in sequence.prefill
    )
    return [
        f'"finish_reason":"{sequence.finish_reason}"',
        f'"generated_tokens":{sequence.num_generated_tokens}',
        f'"seed":{_seed(sequence)}',
        f'"prefill":[{",".join(prefill)}]',
        f'"tokens":[{",".join(map(_token, sequence.tokens))}]',
    ]


def _top_tokens_member(sequence: GeneratedSequence) -> str:
    return f'"top_tokens":[{",".join(_top_tokens(token.top_tokens) for token in sequence.tokens)}]'


def _token(token: GeneratedToken | ScoredToken) -> str:
    special = "true" if token.special else "false"
    return (
        f'{{"id":{token.id},"text":{format_string(token.text)},'
        f'"logprob":{format_f32(token.logprob)},"special":{special}}}'
    )


def _top_tokens(tokens: Sequence[ScoredToken]) -> str:
    return f"[{','.join(map(_token, tokens))}]"


def _seed(sequence: GeneratedSequence) -> str:
    return "null" if sequence.seed is None else str(sequence.seed)
