"""From a parsed request to a generation: rules, tokenization, sampling, in TGI's order."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import final

import msgspec

from tgi.backend import LogprobsMode, SamplingParams
from tgi.engine.stream import SequenceRequest
from tgi.server.generation.output import GenerationRequest, StopStyle
from tgi.server.generation.validation import (
    check_agreement,
    check_best_of,
    check_lengths,
    check_parameters,
    check_stream,
    check_token_ids,
    sampling_params,
)
from tgi.server.native.schemas import GenerateParameters
from tgi.server.state import ServerState

__all__ = ["Admission", "AdmittedPrompt", "GenerationInput"]

_NUM_SEED_BITS = 64


@final
@dataclass(frozen=True)
class GenerationInput:
    """What any generation route asks for about one prompt. The penalties and the bias are
    OpenAI's.
    """

    prompt: str
    parameters: GenerateParameters
    stop_style: StopStyle
    prompt_token_ids: tuple[int, ...] | None = (
        None  # where the client gave ids; `prompt` is their text
    )
    add_special_tokens: bool = True  # off for rendered chat templates, which bring their own
    num_sequences: int = 1
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: LogprobsMode = "processed"
    has_prompt_logprobs: bool = False  # beside what `decoder_input_details` asks for


@final
@dataclass(frozen=True)
class AdmittedPrompt:
    """What may be generated for one prompt, and how long it took to find out."""

    requests: list[GenerationRequest]  # one per sequence; they differ in seed and id alone
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

    async def admit(self, given: GenerationInput, received: float) -> AdmittedPrompt:
        """Check everything that is left, tokenize, choose seeds. Raises `ValidationError`.

        `received` is the `time.perf_counter()` at which the handler began.
        """
        state, parameters = self._state, given.parameters
        check_parameters(
            given.prompt if given.prompt_token_ids is None else given.prompt_token_ids,
            parameters,
            state.config,
        )
        sampling = self._sampling(given)
        check_agreement(sampling, state.engine.agreement, state.config.backend_name)
        token_ids = await self._token_ids(given)
        budget = check_lengths(len(token_ids), parameters, state.config)
        state.metrics.observe_valid_request(budget.input_length, budget.max_new_tokens)
        request_id, start = secrets.token_hex(8), state.config.decoder_start_token_id
        requests = [
            GenerationRequest(
                SequenceRequest(
                    request_id=request_id if given.num_sequences == 1 else f"{request_id}-{index}",
                    prompt_token_ids=token_ids if start is None else [start],
                    encoder_token_ids=[] if start is None else token_ids,
                    sampling=sampling,
                    seed=seed,
                    max_new_tokens=budget.max_new_tokens,
                    eos_token_ids=(
                        () if parameters.ignore_eos else state.tokenizer.tokenizer.eos_token_ids
                    ),
                ),
                stop=tuple(parameters.stop),
                stop_style=given.stop_style,
            )
            for index, seed in enumerate(_seeds(parameters.seed, given.num_sequences))
        ]
        return AdmittedPrompt(requests, time.perf_counter() - received)

    async def _token_ids(self, given: GenerationInput) -> list[int]:
        if given.prompt_token_ids is None:
            truncate = given.parameters.truncate
            return (
                await self._state.tokenizer.encode(given.prompt, given.add_special_tokens, truncate)
            ).ids
        check_token_ids(given.prompt_token_ids, self._state.engine.agreement, "prompt")
        return list(given.prompt_token_ids)

    def _sampling(self, given: GenerationInput) -> SamplingParams:
        agreement = self._state.engine.agreement
        sampling = sampling_params(given.parameters, self._state.config, agreement)
        check_token_ids([token for token, _ in given.logit_bias], agreement, "logit_bias")
        return msgspec.structs.replace(
            sampling,
            frequency_penalty=given.frequency_penalty,
            presence_penalty=given.presence_penalty,
            logit_bias=given.logit_bias,
            logprobs=given.logprobs if agreement.has("logprobs") else "none",
            prompt_logprobs=sampling.prompt_logprobs or given.has_prompt_logprobs,
        )


def _seeds(seed: int | None, count: int) -> list[int]:
    """Each sequence draws differently, and a given seed settles all of them."""
    if seed is None:
        return [secrets.randbits(_NUM_SEED_BITS) for _ in range(count)]
    return [(seed + index) % (1 << _NUM_SEED_BITS) for index in range(count)]
