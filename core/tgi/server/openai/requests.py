"""Converts the request bodies of the OpenAI routes to requests. Parameters that this version does
not support are rejected by an error that names them. They are never ignored.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, final

import msgspec
from msgspec import structs

from tgi.backend import SamplingParams
from tgi.errors import RequestError, ToolError, ValidationError
from tgi.server.chat.conversation import Conversation, chat_text_request
from tgi.server.chat.reasoning import ReasoningOptions
from tgi.server.generation.constraints import (
    format_constraint,
    guided_constraints,
    tgi_grammar,
)
from tgi.server.generation.parameters import (
    StopStyle,
    TextRequest,
    generate_parameters,
    reject_constraints,
    reject_unsupported,
)
from tgi.server.generation.protocols import CHAT, COMPLETIONS, ClientProtocol
from tgi.server.http.json_format import round_f32
from tgi.server.http.json_reader import RejectionError
from tgi.server.openai.chat_tools import chat_tools
from tgi.server.openai.schemas import ChatRequest, CompletionRequest
from tgi.server.state import ServerConfig, ServerState

__all__ = [
    "BatchSizeError",
    "SuffixError",
    "chat_request",
    "completion_requests",
]

_MAX_PENALTY = 2.0
_MAX_BIASES = 1024  # OpenAI's limit is 300
_MAX_BIAS = 100.0
_MANY_TOOLS = 64
_GUIDED_FIELDS = (
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
_SHAPE = "Failed to deserialize the JSON body into the target type: prompt: "


@final
class SuffixError(RequestError):
    """Error 422 `suffix not supported` for a completion with a suffix."""

    status = 422
    error_type = "suffix not supported"

    def __init__(self) -> None:
        super().__init__("Suffix is not supported and can be achieved by preprocessing the prompt.")


@final
class BatchSizeError(RequestError):
    """Error 422 `batch size exceeded` for a completion with too many prompts."""

    status = 422
    error_type = "batch size exceeded"

    def __init__(self, limit: int, count: int) -> None:
        super().__init__(
            f"Number of prompts exceeds the maximum allowed batch size of {limit}. Given: {count}."
            " Send fewer prompts, or start the server with a larger `--max-client-batch-size`."
        )


async def completion_requests(
    body: CompletionRequest, state: ServerState, protocol: ClientProtocol = COMPLETIONS
) -> list[TextRequest]:
    """Convert a body of `/v1/completions` to requests, one per prompt. `protocol` determines the
    error messages. Raises `RequestError` for an invalid parameter and `RejectionError` for an
    invalid prompt.
    """
    if isinstance(body.prompt, list):  # the list may be long
        return await asyncio.to_thread(_completion_requests, body, state, protocol)
    return _completion_requests(body, state, protocol)


def _completion_requests(
    body: CompletionRequest, state: ServerState, protocol: ClientProtocol
) -> list[TextRequest]:
    prompts = _prompts(body.prompt)
    if body.suffix is not None:
        raise SuffixError
    max_prompts = state.config.max_client_batch_size
    if len(prompts) > max_prompts:
        raise BatchSizeError(max_prompts, len(prompts))
    has_logprobs = body.logprobs is not None and body.logprobs is not False
    if body.echo and has_logprobs:
        _check_echo_logprobs(body, state)
    num_sequences = _num_sequences(body, len(prompts), state.config)
    max_tokens = body.max_tokens
    if body.echo and max_tokens == 0 and not body.stream:
        max_tokens = 1  # The engine generates at least one token. The response omits it.
    request = _text_request(
        body,
        protocol,
        max_tokens=max_tokens,
        num_sequences=num_sequences,
        has_logprobs=has_logprobs or num_sequences > (body.n or 1),
        top_logprobs=int(body.logprobs or 0) if has_logprobs else None,
        has_prompt_logprobs=bool(body.echo) and has_logprobs,
    )
    return [_with_prompt(request, prompt, state) for prompt in prompts]


async def chat_request(
    body: ChatRequest, state: ServerState, protocol: ClientProtocol = CHAT
) -> TextRequest:
    """Convert a body of `/v1/chat/completions` to a request. `protocol` determines the error
    messages. Raises `RequestError` and `RejectionError`.
    """
    has_sound = bool(body.audio) or (body.modalities is not None and body.modalities != ["text"])
    reject_unsupported(
        {
            "functions": body.functions,
            "function_call": body.function_call not in (None, "none"),
            "modalities": has_sound,
        }
    )
    if body.top_logprobs and not body.logprobs:
        raise ValidationError(
            f"`top_logprobs` requires `logprobs` to be true. Given: {body.top_logprobs}"
        )
    # If a client sends both names of the limit, the newer name takes precedence.
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    request = _text_request(
        body,
        protocol if protocol.is_native else structs.replace(protocol, max_new_tokens=name),
        max_tokens=getattr(body, name),
        num_sequences=_checked_count("n", body.n, 1, state.config),
        has_logprobs=bool(body.logprobs),
        top_logprobs=body.top_logprobs,
    )
    if body.tools is not None and (request.constraint or request.parameters.grammar):
        raise ToolError("Grammar and tools are mutually exclusive")
    has_many_tools = len(body.tools or ()) > _MANY_TOOLS
    tools = await asyncio.to_thread(chat_tools, body) if has_many_tools else chat_tools(body)
    conversation = Conversation(
        body.messages,
        lambda: [msgspec.to_builtins(message) for message in body.messages],
        tools,
        tools_field="tools" if body.tool_choice in (None, "auto") else "tool_choice",
        reasoning=ReasoningOptions(
            body.chat_template_kwargs or {},
            body.reasoning_effort,
            body.enable_thinking,
            body.thinking_token_budget,
            body.verbosity,
        ),
    )
    return await chat_text_request(request, conversation, state)


def _text_request(
    body: CompletionRequest | ChatRequest,
    protocol: ClientProtocol,
    *,
    max_tokens: int | None,
    num_sequences: int,
    has_logprobs: bool,
    top_logprobs: int | None,
    has_prompt_logprobs: bool = False,
) -> TextRequest:
    """Create a request without its prompt."""
    parameters = generate_parameters(
        body,
        temperature=body.temperature,
        top_p=body.top_p,
        max_new_tokens=max_tokens,
        stop=[body.stop] if isinstance(body.stop, str) else body.stop or (),
        seed=body.seed,
        top_n_tokens=top_logprobs,
        repetition_penalty=body.repetition_penalty,
    )
    sampling = SamplingParams(
        frequency_penalty=_penalty("frequency_penalty", body.frequency_penalty),
        presence_penalty=_penalty("presence_penalty", body.presence_penalty),
        logit_bias=_logit_bias(body.logit_bias),
        logprobs="raw" if has_logprobs else "none",
        prompt_logprobs=has_prompt_logprobs,
    )
    request = TextRequest(
        "",
        parameters,
        StopStyle.OPENAI,
        num_sequences=num_sequences,
        sampling=sampling,
        protocol=protocol,
    )
    return _constrained(request, body)


def _constrained(request: TextRequest, body: CompletionRequest | ChatRequest) -> TextRequest:
    """Return the request with the constraint of a body. Raises `ValidationError` if the body has
    several constraints or an unknown one.
    """
    reject_constraints({"grammar": body.grammar}, "response_format")
    response_format = body.response_format
    guided = {name: getattr(body, name) for name in _GUIDED_FIELDS}
    if response_format is None and not any(value is not None for value in guided.values()):
        return request
    grammar = tgi_grammar(response_format)
    constraints = guided_constraints(guided)
    if grammar is None:
        constraint = format_constraint(response_format)
        if constraint is not None:
            constraints = {"response_format": constraint} | constraints
    names = ["response_format"] * (grammar is not None) + list(constraints)
    if len(names) > 1:
        listed = ", ".join(f"`{name}`" for name in names)
        raise ValidationError(f"only one constraint on the output is possible. Given: {listed}")
    if grammar is not None:
        parameters = structs.replace(request.parameters, grammar=grammar)
        return dataclasses.replace(
            request, parameters=parameters, constraint_field="response_format"
        )
    for name, constraint in constraints.items():
        return dataclasses.replace(request, constraint=constraint, constraint_field=name)
    return request


def _prompts(prompt: str | list[Any]) -> list[str | tuple[int, ...]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RejectionError(
            422, f"{_SHAPE}Empty array detected. Do not use an empty array for the prompt."
        )
    if _is_token_ids(prompt):
        return [tuple(prompt)]
    if not all(isinstance(entry, str) or (_is_token_ids(entry) and entry) for entry in prompt):
        raise RejectionError(
            422, f"{_SHAPE}data did not match any variant of untagged enum PromptDeserializer"
        )
    return [entry if isinstance(entry, str) else tuple(entry) for entry in prompt]


def _is_token_ids(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(entry) is int for entry in value)


def _with_prompt(
    request: TextRequest, prompt: str | tuple[int, ...], state: ServerState
) -> TextRequest:
    if isinstance(prompt, str):
        return dataclasses.replace(request, prompt=prompt)
    # Only ids that can be decoded are included. Admission rejects unknown ids and prompts that are
    # too long.
    known = [
        token
        for token in prompt[: state.config.max_total_tokens]
        if 0 <= token < state.engine.agreement.vocab_size
    ]
    return dataclasses.replace(
        request, prompt=state.tokenizer.tokenizer.decode(known), prompt_token_ids=prompt
    )


def _check_echo_logprobs(body: CompletionRequest, state: ServerState) -> None:
    """Raise `ValidationError` if the log probabilities of the prompt are not available for this
    request.
    """
    if body.stream:
        raise ValidationError("`echo` with `logprobs` is not supported when streaming tokens")
    if not state.config.enable_prefill_logprobs:
        raise ValidationError(
            "`echo` with `logprobs` requires the server option `--enable-prefill-logprobs`: remove"
            " `echo` or `logprobs`"
        )
    if not state.engine.agreement.has("prompt_logprobs"):
        raise ValidationError(
            f"`echo` with `logprobs` is not supported by the backend `{state.config.backend_name}`"
        )


def _num_sequences(body: CompletionRequest, num_prompts: int, config: ServerConfig) -> int:
    """The number of sequences to generate per prompt: `best_of` if the client sent it, otherwise
    `n`. The best `n` are returned. Raises `ValidationError` for an invalid number.
    """
    num_returned = _checked_count("n", body.n, num_prompts, config)
    best_of = (
        num_returned
        if body.best_of is None
        else _checked_count("best_of", body.best_of, num_prompts, config)
    )
    if best_of < num_returned:
        raise ValidationError(f"`best_of` must be >= `n`. Given: {best_of} and {num_returned}")
    if body.stream and best_of > num_returned:
        raise ValidationError("`best_of` > `n` is not supported when streaming tokens")
    return best_of


def _checked_count(name: str, value: int | None, num_prompts: int, config: ServerConfig) -> int:
    count = 1 if value is None else value
    limit = config.max_concurrent_requests // num_prompts
    if not 1 <= count <= max(1, limit):
        raise ValidationError(
            f"`{name}` must be > 0 and <= {max(1, limit)} with {num_prompts} prompt(s). Given:"
            f" {count}"
        )
    return count


def _penalty(name: str, value: float | None) -> float:
    penalty = round_f32(value or 0.0)
    if abs(penalty) > _MAX_PENALTY:
        raise ValidationError(f"`{name}` must be >= -2.0 and <= 2.0. Given: {value}")
    return penalty


def _logit_bias(
    requested: Mapping[str, float] | Sequence[float] | None,
) -> tuple[tuple[int, float], ...]:
    if not requested:
        return ()
    if not isinstance(requested, Mapping):
        raise ValidationError("`logit_bias` must be a map of token ids to numbers. Given: an array")
    if len(requested) > _MAX_BIASES:
        raise ValidationError(
            f"`logit_bias` must have at most {_MAX_BIASES} entries. Given: {len(requested)}"
        )
    biases = []
    for key, value in requested.items():
        if not (key.isascii() and key.isdigit()):
            raise ValidationError(
                f"`logit_bias` must be a map of token ids to numbers. Given: `{key}`"
            )
        if abs(value) > _MAX_BIAS:
            raise ValidationError(f"`logit_bias` must be >= -100 and <= 100. Given: {value}")
        biases.append((int(key), round_f32(value)))
    return tuple(biases)
