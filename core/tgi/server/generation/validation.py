"""The validation rules for request bodies.

The rules of TGI 3 (`router/src/validation.rs`) are applied first, in TGI's order and with TGI's
error messages. The rules of this project are applied next. They reject each parameter that the
backend or this version does not support, and the error message names the parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import msgspec

from tgi.backend import Agreement, SamplingParams
from tgi.errors import RequestError, ValidationError
from tgi.server.generation.parameters import (
    MAX_SALT_LENGTH,
    GenerateParameters,
    TextRequest,
    check_prompt_ids,
    check_sent_ids,
)
from tgi.server.generation.protocols import ClientProtocol
from tgi.server.http.json_format import round_f32
from tgi.server.state import ServerConfig

__all__ = [
    "BEST_OF_RULES",
    "GUIDANCE_RULES",
    "PARAMETER_RULES",
    "STREAM_RULES",
    "TOKEN_RULES",
    "Candidate",
    "RuleSet",
    "check",
    "length_error",
]

_CLIPPED_NEW_TOKENS = 1024
_MAX_FREQUENCY_PENALTY = 2.0

_DEFAULT_SAMPLING = SamplingParams()
# The name in the agreement with the backend, the field of `SamplingParams` and the parameter of the
# request. `top_n_tokens` has another name in OpenAI's API.
_SAMPLING_FIELDS = (
    ("watermark", "watermark_gamma", "watermark"),
    ("repetition_penalty", "repetition_penalty", "repetition_penalty"),
    ("relative_frequency_penalty", "relative_frequency_penalty", "frequency_penalty"),
    *((name, name, name) for name in ("frequency_penalty", "presence_penalty", "temperature")),
    *((name, name, name) for name in ("top_k", "top_p", "typical_p", "top_n_tokens")),
)


@final
@dataclass(frozen=True)
class Candidate:
    """The input of the rules: a request, the limits of the server and those of the backend."""

    request: TextRequest
    config: ServerConfig
    agreement: Agreement
    # Token ids of the truncated prompt. They are known only when `TOKEN_RULES` are applied.
    token_ids: tuple[int, ...] = ()

    @property
    def parameters(self) -> GenerateParameters:
        """The parameters of the request."""
        return self.request.parameters

    @property
    def protocol(self) -> ClientProtocol:
        """The API of the client, which names the fields in error messages."""
        return self.request.protocol

    @property
    def has_masks(self) -> bool:
        """Whether the backend can apply the masks of a constraint."""
        return self.agreement.has("mask") or self.agreement.has("late_mask")

    @property
    def max_new_tokens(self) -> int:
        """Maximum number of tokens to generate. It is the requested number, limited by the free
        context length.
        """
        free = max(0, self.config.max_total_tokens - len(self.token_ids))
        requested = self.parameters.max_new_tokens
        return free if requested is None else min(requested, free)

    @cached_property
    def sampling(self) -> SamplingParams:
        """The sampling parameters for the engine."""
        parameters, config, agreement = self.parameters, self.config, self.agreement
        base = self.request.sampling
        has_prompt_logprobs = (
            parameters.decoder_input_details
            and config.enable_prefill_logprobs
            and "prompt_logprobs" in agreement.features
        )
        return msgspec.structs.replace(
            base,
            greedy=not parameters.is_sampling,
            watermark_gamma=config.watermark_gamma if parameters.watermark else 0.0,
            watermark_delta=config.watermark_delta if parameters.watermark else 0.0,
            repetition_penalty=_f32(parameters.repetition_penalty, 1.0),
            relative_frequency_penalty=_f32(parameters.frequency_penalty, 0.0),
            temperature=_f32(parameters.temperature, 1.0),
            top_k=parameters.top_k or 0,
            top_p=_f32(parameters.top_p, 1.0),
            typical_p=_f32(parameters.typical_p, 1.0),
            logprobs=base.logprobs if "logprobs" in agreement.features else "none",
            top_n_tokens=parameters.top_n_tokens or 0,
            prompt_logprobs=base.prompt_logprobs or has_prompt_logprobs,
        )


def check(rules: RuleSet, candidate: Candidate) -> None:
    """Apply the rules in their order. Raises `ValidationError` for the first violated rule."""
    for rule in rules:
        rule(candidate)


def _stream(candidate: Candidate) -> None:
    if candidate.parameters.best_of not in (None, 1):
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if candidate.parameters.decoder_input_details:
        raise ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )


def _best_of_limit(candidate: Candidate) -> None:
    best_of, limit = candidate.parameters.best_of, candidate.config.max_best_of
    if best_of is None or best_of <= 1:
        return
    if limit == 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of > limit:
        raise ValidationError(f"`best_of` must be > 0 and <= {limit}. Given: {best_of}")


def _best_of_sampling(candidate: Candidate) -> None:
    parameters = candidate.parameters
    has_several = (parameters.best_of or 1) > 1
    if has_several and not parameters.is_sampling and parameters.temperature is None:
        raise ValidationError("you must use sampling when `best_of` is > 1")


def _temperature(candidate: Candidate) -> None:
    temperature = candidate.parameters.temperature
    if _f32(temperature, 1.0) > 0:
        return
    if candidate.protocol.is_native:
        raise ValidationError("`temperature` must be strictly positive")
    raise ValidationError(f"`temperature` must be >= 0. Given: {temperature}")


def _repetition_penalty(candidate: Candidate) -> None:
    if _f32(candidate.parameters.repetition_penalty, 1.0) <= 0:
        raise ValidationError("`repetition_penalty` must be strictly positive")


def _frequency_penalty(candidate: Candidate) -> None:
    if abs(_f32(candidate.parameters.frequency_penalty, 0.0)) > _MAX_FREQUENCY_PENALTY:
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")


def _probability_masses(candidate: Candidate) -> None:
    parameters = candidate.parameters
    for name, mass in (("top_p", parameters.top_p), ("typical_p", parameters.typical_p)):
        if mass is None or 0 < round_f32(mass) < 1:
            continue
        if candidate.protocol.is_native:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
        raise ValidationError(f"`{name}` must be >= 0 and <= 1. Given: {mass}")


def _top_k(candidate: Candidate) -> None:
    top_k = candidate.parameters.top_k
    if top_k is not None and top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")


def _max_new_tokens(candidate: Candidate) -> None:
    if candidate.parameters.max_new_tokens == 0:
        name = candidate.protocol.max_new_tokens
        raise ValidationError(f"`{name}` must be strictly positive")


def _num_stop_sequences(candidate: Candidate) -> None:
    count, limit = len(candidate.parameters.stop), candidate.config.max_stop_sequences
    if count > limit:
        name = candidate.protocol.stop
        raise ValidationError(f"`{name}` supports up to {limit} stop sequences. Given: {count}")


def _seed_of_best_of(candidate: Candidate) -> None:
    if candidate.parameters.seed is not None and (candidate.parameters.best_of or 1) > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")


def _top_n_tokens(candidate: Candidate) -> None:
    count, limit = candidate.parameters.top_n_tokens, candidate.config.max_top_n_tokens
    if (count or 0) > limit:
        name = candidate.protocol.top_n_tokens
        raise ValidationError(f"`{name}` must be >= 0 and <= {limit}. Given: {count}")


def _inputs(candidate: Candidate) -> None:
    request = candidate.request
    if not (request.prompt if request.prompt_token_ids is None else request.prompt_token_ids):
        raise ValidationError(f"`{candidate.protocol.prompt}` cannot be empty")


def _truncate(candidate: Candidate) -> None:
    truncate, limit = candidate.parameters.truncate, candidate.config.max_input_tokens
    if truncate is not None and not 0 < truncate <= limit:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {limit}. Given: {truncate}"
        )


def _adapter_id(candidate: Candidate) -> None:
    adapter_id = candidate.parameters.adapter_id
    if adapter_id is not None:
        raise ValidationError(
            f"`adapter_id` is not supported by this version: leave it out. Given: {adapter_id}"
        )


def _cache_salt(candidate: Candidate) -> None:
    salt = candidate.parameters.cache_salt
    if salt is not None and not 1 <= len(salt) <= MAX_SALT_LENGTH:
        raise ValidationError(
            f"`cache_salt` must have 1 to {MAX_SALT_LENGTH} characters. Given: {len(salt)}"
        )


def _logit_bias_ids(candidate: Candidate) -> None:
    ids = (token for token, _ in candidate.request.sampling.logit_bias)
    check_sent_ids(ids, candidate.agreement.vocab_size, "logit_bias")


def _logit_bias_agreement(candidate: Candidate) -> None:
    if candidate.request.sampling.logit_bias and "logit_bias" not in candidate.agreement.sampling:
        raise _unsupported("logit_bias", candidate)


def _sampling_agreement(candidate: Candidate) -> None:
    """Reject parameters that the backend does not support and values above its maximum."""
    sampling, agreement = candidate.sampling, candidate.agreement
    for name, field, parameter in _SAMPLING_FIELDS:
        value = getattr(sampling, field)
        if value == getattr(_DEFAULT_SAMPLING, field):
            continue
        shown = candidate.protocol.top_n_tokens if name == "top_n_tokens" else parameter
        if name not in agreement.sampling:
            raise _unsupported(shown, candidate)
        cap = agreement.sampling_caps.get(name)
        if cap is not None and value > cap:
            raise ValidationError(
                f"`{shown}` must be <= {cap:g} with the backend"
                f" `{candidate.config.backend_name}`. Given: {value}"
            )


def _prompt_token_ids(candidate: Candidate) -> None:
    # Ids after the limit are not read, because the prompt is then rejected as too long. The event
    # loop would otherwise be blocked by a list of a million ids.
    ids = (candidate.request.prompt_token_ids or ())[: candidate.config.max_total_tokens]
    check_sent_ids(ids, candidate.agreement.vocab_size, "prompt")


def _total_tokens(candidate: Candidate) -> None:
    """Limit the sum of prompt tokens and new tokens. As in TGI, at most 1,024 new tokens count
    toward this sum, although more may be generated.
    """
    num_tokens, limit = len(candidate.token_ids), candidate.config.max_total_tokens
    requested = candidate.parameters.max_new_tokens
    new_tokens = max(0, limit - num_tokens) if requested is None else requested
    clipped = min(new_tokens, _CLIPPED_NEW_TOKENS)
    if num_tokens + clipped <= limit:
        return
    if not candidate.protocol.is_native:
        _input_tokens(candidate)  # The prompt alone may be too long.
    else:
        new_tokens = clipped
    raise length_error(candidate, candidate.protocol.total_too_long, num_tokens, new_tokens)


def _input_tokens(candidate: Candidate) -> None:
    num_tokens, limit = len(candidate.token_ids), candidate.config.max_input_tokens
    if num_tokens > limit:
        raise length_error(candidate, candidate.protocol.prompt_too_long, num_tokens)


def length_error(
    candidate: Candidate, text: str, num_tokens: int | str, num_new_tokens: int = 0
) -> RequestError:
    """The error for a prompt or an output that is too long. `text` is a message of the client's
    protocol. `num_tokens` is a text if the prompt was not tokenized.
    """
    config = candidate.config
    total = num_tokens + num_new_tokens if isinstance(num_tokens, int) else num_tokens
    return candidate.protocol.length_error(
        text.format(
            tokens=num_tokens,
            new=num_new_tokens,
            total=total,
            max_prompt=config.max_input_tokens,
            max_total=config.max_total_tokens,
        )
    )


def _known_token_ids(candidate: Candidate) -> None:
    check_prompt_ids(candidate.token_ids, candidate.agreement.vocab_size)


def _grammar_support(candidate: Candidate) -> None:
    """Reject constraints if the option `--disable-grammar-support` is set."""
    request = candidate.request
    has_constraint = request.constraint is not None or request.parameters.grammar is not None
    if not has_constraint or request.is_constraint_optional:
        return
    if candidate.config.disable_grammar_support:
        raise ValidationError("grammar is not supported")


def _mask_agreement(candidate: Candidate) -> None:
    """Reject constraints and reasoning limits if the backend applies no masks."""
    request = candidate.request
    is_needed = not request.is_constraint_optional or request.max_reasoning_tokens is not None
    if is_needed and not candidate.has_masks:
        raise _unsupported(request.guided_field, candidate)


RuleSet = tuple[Callable[[Candidate], None], ...]

STREAM_RULES: RuleSet = (_stream,)
"""Rules for streamed responses. They are applied before a concurrency slot is occupied."""

BEST_OF_RULES: RuleSet = (_best_of_limit,)
"""Rules for other responses. They are applied before a concurrency slot is occupied."""

PARAMETER_RULES: RuleSet = (
    _best_of_sampling,
    _temperature,
    _repetition_penalty,
    _frequency_penalty,
    _probability_masses,
    _top_k,
    _max_new_tokens,
    _num_stop_sequences,
    _seed_of_best_of,
    _top_n_tokens,
    _inputs,
    _truncate,
    _adapter_id,
    _cache_salt,
    _logit_bias_ids,
    _logit_bias_agreement,
    _sampling_agreement,
    _prompt_token_ids,
)
"""Rules that need no tokenizer."""

TOKEN_RULES: RuleSet = (_total_tokens, _input_tokens, _known_token_ids)
"""Rules about the number of tokens, and about the ids that the tokenizer returned."""

GUIDANCE_RULES: RuleSet = (_grammar_support, _mask_agreement)
"""Rules for requests whose output is constrained. As in TGI, they are applied last."""


def _unsupported(parameter: str, candidate: Candidate) -> ValidationError:
    backend = candidate.config.backend_name
    return ValidationError(
        f"`{parameter}` is not supported by the backend `{backend}`: leave it out"
    )


def _f32(value: float | None, default: float) -> float:
    return default if value is None else round_f32(value)
