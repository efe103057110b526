"""From a parsed request to a generation: rules, tokenization, sampling, in TGI's order."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import final

import msgspec

from tgi.backend import SamplingParams
from tgi.server.generation import GenerationRequest, StopStyle
from tgi.server.schemas import GenerateParameters
from tgi.server.state import ServerState
from tgi.server.validation import (
    check_agreement,
    check_best_of,
    check_lengths,
    check_parameters,
    check_stream,
    sampling_params,
)

__all__ = ["Admission", "AdmittedRequest", "GenerationInput"]

_NUM_SEED_BITS = 64


@final
@dataclass(frozen=True)
class GenerationInput:
    """What any generation route asks for. The penalties are OpenAI's; native parameters cannot say them."""

    prompt: str
    parameters: GenerateParameters
    stop_style: StopStyle
    add_special_tokens: bool = True  # off for rendered chat templates, which bring their own
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    has_logprobs: bool = True


@final
@dataclass(frozen=True)
class AdmittedRequest:
    """A request that may be generated, and how long it took to find out."""

    request: GenerationRequest
    validation_seconds: float


@final
class Admission:
    """Decides whether a request is worked on. It takes no permit."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    def check_best_of(self, parameters: GenerateParameters) -> None:
        """Limits looked at before a permit is taken. Raises `ValidationError`."""
        check_best_of(parameters, self._state.config)

    def check_stream(self, parameters: GenerateParameters) -> None:
        """What no stream can do. Raises `ValidationError`."""
        check_stream(parameters)

    async def admit(self, given: GenerationInput, received: float) -> AdmittedRequest:
        """Check everything that is left, tokenize, choose a seed. Raises `ValidationError`.

        `received` is the `time.perf_counter()` at which the handler began.
        """
        state, parameters = self._state, given.parameters
        check_parameters(given.prompt, parameters, state.config)
        sampling = self._sampling(given)
        check_agreement(sampling, state.engine.agreement, state.config.backend_name)
        encoding = await state.tokenizer.encode(given.prompt, given.add_special_tokens, parameters.truncate)
        budget = check_lengths(len(encoding.ids), parameters, state.config)
        state.metrics.observe_valid_request(budget.input_length, budget.max_new_tokens)
        request = GenerationRequest(
            request_id=secrets.token_hex(8),
            prompt_token_ids=encoding.ids,
            sampling=sampling,
            seed=secrets.randbits(_NUM_SEED_BITS) if parameters.seed is None else parameters.seed,
            max_new_tokens=budget.max_new_tokens,
            eos_token_ids=() if parameters.ignore_eos else state.tokenizer.tokenizer.eos_token_ids,
            stop=tuple(parameters.stop),
            stop_style=given.stop_style,
        )
        return AdmittedRequest(request, time.perf_counter() - received)

    def _sampling(self, given: GenerationInput) -> SamplingParams:
        sampling = sampling_params(given.parameters, self._state.config, self._state.engine.agreement)
        return msgspec.structs.replace(
            sampling,
            frequency_penalty=given.frequency_penalty,
            presence_penalty=given.presence_penalty,
            logprobs=sampling.logprobs if given.has_logprobs else "none",
        )
