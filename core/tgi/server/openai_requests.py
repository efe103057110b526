"""What an OpenAI body means in native terms; what cannot be served yet is refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import msgspec

from tgi.errors import RequestError, TemplateError, ValidationError
from tgi.server.admission import GenerationInput
from tgi.server.generation import StopStyle
from tgi.server.json_format import round_f32
from tgi.server.openai_schemas import ChatRequest, CompletionRequest
from tgi.server.schemas import GenerateParameters
from tgi.server.state import ServerConfig
from tgi.text import ChatTemplateRenderer

__all__ = ["BatchSizeError", "SuffixError", "chat_input", "completion_input"]

_MAX_PENALTY = 2.0
_TEXT_FORMAT = {"type": "text"}


@final
class SuffixError(RequestError):
    """422 `suffix not supported`."""

    status = 422
    error_type = "suffix not supported"

    def __init__(self) -> None:
        super().__init__("Suffix is not supported and can be achieved by preprocessing the prompt.")


@final
class BatchSizeError(RequestError):
    """422 `batch size exceeded`."""

    status = 422
    error_type = "batch size exceeded"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Number of prompts exceeds the maximum allowed batch size of {limit}")


def completion_input(body: CompletionRequest, config: ServerConfig) -> GenerationInput:
    """The generation that `/v1/completions` asks for. Raises `RequestError`."""
    if body.suffix is not None:
        raise SuffixError
    _refuse({"echo": body.echo, "logprobs": body.logprobs is not None and body.logprobs is not False})
    _refuse_more_than_one({"n": body.n, "best_of": body.best_of})
    return _generation_input(body, _single_prompt(body.prompt, config), add_special_tokens=True)


async def chat_input(body: ChatRequest, template: ChatTemplateRenderer | None) -> GenerationInput:
    """The generation that `/v1/chat/completions` asks for. Raises `RequestError`."""
    has_format = body.response_format is not None and body.response_format != _TEXT_FORMAT
    has_tools = bool(body.tools) and body.tool_choice != "none"
    _refuse({"tools": has_tools, "response_format": has_format, "logprobs": body.logprobs, "top_logprobs": body.top_logprobs})
    _refuse_more_than_one({"n": body.n})
    if template is None:
        raise TemplateError("template not found")
    messages = [msgspec.to_builtins(message) for message in body.messages]
    if any(_has_media(message.get("content")) for message in messages):
        raise ValidationError("only text is supported in `messages` by this version: leave images and sound out")
    return _generation_input(body, await template.render(messages), add_special_tokens=False)


def _single_prompt(prompt: str | list[object], config: ServerConfig) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) > config.max_client_batch_size:
        raise BatchSizeError(config.max_client_batch_size)
    match prompt:
        case [str() as text]:
            return text
        case _:
            raise ValidationError(f"`prompt` must be one string in this version. Given: an array of {len(prompt)} items")


def _generation_input(body: CompletionRequest | ChatRequest, prompt: str, add_special_tokens: bool) -> GenerationInput:
    if body.logit_bias:
        raise ValidationError("`logit_bias` is not supported by this version: leave it out")
    max_tokens = body.max_tokens
    if isinstance(body, ChatRequest) and max_tokens is None:
        max_tokens = body.max_completion_tokens
    is_greedy = body.temperature == 0.0
    stop = [body.stop] if isinstance(body.stop, str) else list(body.stop or ())
    parameters = GenerateParameters(
        do_sample=not is_greedy,
        temperature=None if is_greedy else body.temperature,
        # OpenAI's default 1 means "off", which the native rule does not let a client say.
        top_p=None if body.top_p == 1.0 else body.top_p,
        repetition_penalty=body.repetition_penalty,
        max_new_tokens=max_tokens,
        seed=body.seed,
        stop=stop,
        ignore_eos=bool(body.ignore_eos),
    )
    return GenerationInput(
        prompt,
        parameters,
        StopStyle.OPENAI,
        add_special_tokens=add_special_tokens,
        frequency_penalty=_penalty("frequency_penalty", body.frequency_penalty),
        presence_penalty=_penalty("presence_penalty", body.presence_penalty),
        has_logprobs=False,
    )


def _penalty(name: str, value: float | None) -> float:
    penalty = round_f32(value or 0.0)
    if abs(penalty) > _MAX_PENALTY:
        raise ValidationError(f"`{name}` must be >= -2.0 and <= 2.0. Given: {value}")
    return penalty


def _refuse(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise ValidationError(f"`{name}` is not supported by this version: leave it out")


def _refuse_more_than_one(given: Mapping[str, int | None]) -> None:
    for name, value in given.items():
        if value not in (None, 1):
            raise ValidationError(f"`{name}` != 1 is not supported by this version. Given: {value}")


def _has_media(content: object) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and part.get("type") not in (None, "text") for part in parts)
