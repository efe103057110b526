"""The rules a request must keep, in TGI's order and words.

Source: TGI 3 `router/src/validation.rs`. After TGI's own rules come ours: what the backend did not
agree to, and what this server does not do yet, is refused by name and never ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from tgi.backend import Agreement, SamplingParams
from tgi.errors import ValidationError
from tgi.server.http.json_format import round_f32
from tgi.server.native.schemas import GenerateParameters
from tgi.server.state import ServerConfig

__all__ = [
    "TokenBudget",
    "check_agreement",
    "check_best_of",
    "check_lengths",
    "check_parameters",
    "check_stream",
    "check_token_ids",
    "is_sampling",
    "sampling_params",
]

_CLIPPED_NEW_TOKENS = 1024
_MAX_FREQUENCY_PENALTY = 2.0


@final
@dataclass(frozen=True)
class TokenBudget:
    """Tokens of a valid request."""

    input_length: int
    max_new_tokens: int


def check_stream(parameters: GenerateParameters) -> None:
    """What no stream can do. Raises `ValidationError`."""
    if parameters.best_of not in (None, 1):
        raise ValidationError("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )


def check_best_of(parameters: GenerateParameters, config: ServerConfig) -> None:
    """Limits of `best_of`, looked at before a permit is taken. Raises `ValidationError`."""
    if parameters.best_of is None or parameters.best_of <= 1:
        return
    if config.max_best_of == 1:
        raise ValidationError("`best_of` != 1 is not allowed for this endpoint")
    if parameters.best_of > config.max_best_of:
        raise ValidationError(
            f"`best_of` must be > 0 and <= {config.max_best_of}. Given: {parameters.best_of}"
        )


def check_parameters(
    inputs: str | Sequence[int], parameters: GenerateParameters, config: ServerConfig
) -> None:
    """Rules that need no tokenizer; `inputs` is a text or its token ids. Raises `ValidationError`
    for the first one broken.
    """
    best_of = parameters.best_of or 1
    if best_of > 1 and not is_sampling(parameters) and parameters.temperature is None:
        raise ValidationError("you must use sampling when `best_of` is > 1")
    _check_numbers(parameters)
    if len(parameters.stop) > config.max_stop_sequences:
        raise ValidationError(
            f"`stop` supports up to {config.max_stop_sequences} stop sequences. Given:"
            f" {len(parameters.stop)}"
        )
    if parameters.seed is not None and best_of > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1")
    if (parameters.top_n_tokens or 0) > config.max_top_n_tokens:
        raise ValidationError(
            f"`top_n_tokens` must be >= 0 and <= {config.max_top_n_tokens}. Given:"
            f" {parameters.top_n_tokens}"
        )
    if not inputs:
        raise ValidationError("`inputs` cannot be empty")
    if parameters.truncate is not None and not 0 < parameters.truncate <= config.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be strictly positive and less than {config.max_input_tokens}. Given:"
            f" {parameters.truncate}"
        )
    _check_unsupported(parameters, config)


def _check_numbers(parameters: GenerateParameters) -> None:
    temperature, top_k = parameters.temperature, parameters.top_k
    if temperature is not None and round_f32(temperature) <= 0:
        raise ValidationError("`temperature` must be strictly positive")
    if parameters.repetition_penalty is not None and round_f32(parameters.repetition_penalty) <= 0:
        raise ValidationError("`repetition_penalty` must be strictly positive")
    if (
        parameters.frequency_penalty is not None
        and abs(round_f32(parameters.frequency_penalty)) > _MAX_FREQUENCY_PENALTY
    ):
        raise ValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name, share in (("top_p", parameters.top_p), ("typical_p", parameters.typical_p)):
        if share is not None and not 0 < round_f32(share) < 1:
            raise ValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if top_k is not None and top_k <= 0:
        raise ValidationError("`top_k` must be strictly positive")
    if parameters.max_new_tokens == 0:
        raise ValidationError("`max_new_tokens` must be strictly positive")


def _check_unsupported(parameters: GenerateParameters, config: ServerConfig) -> None:
    if parameters.grammar is not None:
        if config.disable_grammar_support:
            raise ValidationError("grammar is not supported")
        raise ValidationError("`grammar` is not supported by this version: leave it out")
    if parameters.adapter_id is not None:
        raise ValidationError(
            "`adapter_id` is not supported by this version: leave it out. Given:"
            f" {parameters.adapter_id}"
        )


def check_lengths(
    num_tokens: int, parameters: GenerateParameters, config: ServerConfig
) -> TokenBudget:
    """Rules about tokens; `num_tokens` counts the prompt after truncation. Raises
    `ValidationError`.

    The rule looks at no more than 1,024 new tokens; what is generated ends at exactly
    `max_new_tokens`, or where the context is full.
    """
    room = max(0, config.max_total_tokens - num_tokens)
    clipped = min(
        room if parameters.max_new_tokens is None else parameters.max_new_tokens,
        _CLIPPED_NEW_TOKENS,
    )
    if num_tokens + clipped > config.max_total_tokens:
        raise ValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {config.max_total_tokens}. "
            f"Given: {num_tokens} `inputs` tokens and {clipped} `max_new_tokens`"
        )
    if num_tokens > config.max_input_tokens:
        raise ValidationError(
            f"`inputs` must have less than {config.max_input_tokens} tokens. Given: {num_tokens}"
        )
    wanted = room if parameters.max_new_tokens is None else parameters.max_new_tokens
    return TokenBudget(num_tokens, min(wanted, room))


def check_token_ids(token_ids: Iterable[int], agreement: Agreement, field: str) -> None:
    """Every id must be one of the model's. Raises `ValidationError` naming the field and the id."""
    limit = agreement.vocab_size
    outside = next((token for token in token_ids if not 0 <= token < limit), None)
    if outside is not None:
        raise ValidationError(f"`{field}` must hold token ids >= 0 and < {limit}. Given: {outside}")


def is_sampling(parameters: GenerateParameters) -> bool:
    """Whether tokens are drawn rather than the likeliest taken: `do_sample`, or a parameter that
    only matters to a draw.
    """
    return (
        parameters.do_sample
        or _f32(parameters.temperature, 1.0) != 1.0
        or parameters.top_k is not None
        or parameters.top_p is not None
        or parameters.typical_p is not None
    )


def sampling_params(
    parameters: GenerateParameters, config: ServerConfig, agreement: Agreement
) -> SamplingParams:
    """The sampling that valid parameters ask for. Log probabilities are of the processed
    distribution, as TGI's are.
    """
    greedy = not is_sampling(parameters)
    return SamplingParams(
        greedy=greedy,
        watermark_gamma=config.watermark_gamma if parameters.watermark else 0.0,
        watermark_delta=config.watermark_delta if parameters.watermark else 0.0,
        repetition_penalty=_f32(parameters.repetition_penalty, 1.0),
        relative_frequency_penalty=_f32(parameters.frequency_penalty, 0.0),
        temperature=_f32(parameters.temperature, 1.0),
        top_k=parameters.top_k or 0,
        top_p=_f32(parameters.top_p, 1.0),
        typical_p=_f32(parameters.typical_p, 1.0),
        logprobs="processed" if agreement.has("logprobs") else "none",
        top_n_tokens=parameters.top_n_tokens or 0,
        prompt_logprobs=parameters.decoder_input_details
        and config.enable_prefill_logprobs
        and agreement.has("prompt_logprobs"),
    )


def check_agreement(sampling: SamplingParams, agreement: Agreement, backend_name: str) -> None:
    """Refuse what the backend did not agree to. Raises `ValidationError` naming parameter, backend
    and cap.
    """
    used = {
        "watermark": ("watermark", sampling.watermark_gamma, 0.0),
        "repetition_penalty": ("repetition_penalty", sampling.repetition_penalty, 1.0),
        "relative_frequency_penalty": (
            "frequency_penalty",
            sampling.relative_frequency_penalty,
            0.0,
        ),
        "frequency_penalty": ("frequency_penalty", sampling.frequency_penalty, 0.0),
        "presence_penalty": ("presence_penalty", sampling.presence_penalty, 0.0),
        "temperature": ("temperature", sampling.temperature, 1.0),
        "top_k": ("top_k", sampling.top_k, 0),
        "top_p": ("top_p", sampling.top_p, 1.0),
        "typical_p": ("typical_p", sampling.typical_p, 1.0),
        "top_n_tokens": ("top_n_tokens", sampling.top_n_tokens, 0),
    }
    if sampling.logit_bias and "logit_bias" not in agreement.sampling:
        raise ValidationError(
            f"`logit_bias` is not supported by the backend `{backend_name}`: leave it out"
        )
    for field, (parameter, value, default) in used.items():
        if value == default:
            continue
        if field not in agreement.sampling:
            raise ValidationError(
                f"`{parameter}` is not supported by the backend `{backend_name}`: leave it out"
            )
        cap = agreement.sampling_caps.get(field)
        if cap is not None and value > cap:
            raise ValidationError(
                f"`{parameter}` must be <= {cap:g} with the backend `{backend_name}`. Given:"
                f" {value}"
            )


def _f32(value: float | None, default: float) -> float:
    return default if value is None else round_f32(value)
