"""Creates a `Request` from a valid request of a client."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import final

import msgspec

from tgi.scheduler import Request
from tgi.server.generation.parameters import TextRequest
from tgi.server.generation.validation import (
    PARAMETER_RULES,
    TOKEN_RULES,
    Candidate,
    RuleSet,
    check,
    length_error,
)
from tgi.server.state import ServerState

__all__ = ["Admission"]

_NUM_SEED_BITS = 64


@final
class Admission:
    """Validates requests, tokenizes them and chooses their seeds."""

    def __init__(self, state: ServerState) -> None:
        self._config = state.config
        self._engine = state.engine
        self._pool = state.tokenizer
        self._metrics = state.metrics

    def check(self, rules: RuleSet, request: TextRequest) -> None:
        """Apply rules that need no tokens. Raises `ValidationError` for the first violated rule."""
        check(rules, self._candidate(request))

    async def admit(self, request: TextRequest) -> list[Request]:
        """Validate and tokenize a request. Returns one `Request` for each sequence. These requests
        differ only in id and seed.

        Raises `ValidationError` for the first violated rule.
        """
        candidate = self._candidate(request)
        check(PARAMETER_RULES, candidate)
        token_ids = await self._token_ids(request)
        candidate = replace(candidate, token_ids=tuple(token_ids))
        check(TOKEN_RULES, candidate)
        self._metrics.observe_valid_request(len(token_ids), candidate.max_new_tokens)
        parameters, start = request.parameters, self._config.decoder_start_token_id
        eos_token_ids = () if parameters.ignore_eos else self._pool.tokenizer.eos_token_ids
        first = Request(
            request_id=secrets.token_hex(8),
            prompt_token_ids=token_ids if start is None else [start],
            encoder_token_ids=[] if start is None else token_ids,
            sampling=candidate.sampling,
            seed=secrets.randbits(_NUM_SEED_BITS) if parameters.seed is None else parameters.seed,
            max_new_tokens=candidate.max_new_tokens,
            eos_token_ids=eos_token_ids,
            cache_salt=parameters.cache_salt or "",
        )
        return _fan_out(first, request)

    def _candidate(self, request: TextRequest) -> Candidate:
        return Candidate(request, self._config, self._engine.agreement)

    async def _token_ids(self, request: TextRequest) -> list[int]:
        if request.prompt_token_ids is not None:
            return list(request.prompt_token_ids)
        truncate, limit = request.parameters.truncate, self._config.max_input_tokens
        if truncate is None and len(request.prompt) > self._pool.tokenizer.max_text_length(limit):
            text = request.protocol.prompt_too_long
            raise length_error(self._candidate(request), text, f"more than {limit}")
        return (await self._pool.encode(request.prompt, request.add_special_tokens, truncate)).ids


def _fan_out(first: Request, request: TextRequest) -> list[Request]:
    """Create one request per sequence. If the client sent a seed, it determines all seeds."""
    count, seed = request.num_sequences, request.parameters.seed
    if count == 1:
        return [first]
    return [
        msgspec.structs.replace(
            first,
            request_id=f"{first.request_id}-{index}",
            seed=(
                secrets.randbits(_NUM_SEED_BITS)
                if seed is None
                else (seed + index) % (1 << _NUM_SEED_BITS)
            ),
        )
        for index in range(count)
    ]
