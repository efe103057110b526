"""The route of a server that is measured, and the requests it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from tgi.bench.http_exchange import Endpoint, exchange, read_response
from tgi.bench.stream_result import StreamResult, read_stream
from tgi.errors import ConfigError

__all__ = ["ROUTES", "Target", "ask", "find_target"]

NATIVE, COMPLETIONS, CHAT = "/generate_stream", "/v1/completions", "/v1/chat/completions"
ROUTES = (NATIVE, COMPLETIONS, CHAT)
"""Routes that can be measured, in the order in which they are tried."""

_NO_MODEL = "tgi"
_ISOLATION_TOKENS = 2
_ISOLATION_SECONDS = 120.0
_REFUSED = ("status 400", "status 422")


@final
@dataclass(frozen=True)
class Target:
    """How a request is spelled for one server. Servers that refuse a field get none."""

    endpoint: Endpoint
    route: str
    model: str = _NO_MODEL
    can_ignore_eos: bool = True
    can_report_usage: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def request(self, prompt: str, num_tokens: int, truncate: int | None = None) -> bytes:
        """A streamed request for `num_tokens` tokens. `truncate` is the native route's limit of
        prompt tokens.
        """
        if self.route == NATIVE:
            parameters: dict[str, Any] = {
                "max_new_tokens": num_tokens,
                "details": True,
                **self.sampling,
            }
            if self.can_ignore_eos:
                parameters["ignore_eos"] = True
            if truncate is not None:
                parameters["truncate"] = truncate
            return self.endpoint.request(
                "POST", self.route, {"inputs": prompt, "parameters": parameters}
            )
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": num_tokens,
            "stream": True,
            "temperature": 0,
            **self.sampling,
        }
        if self.route == CHAT:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if self.can_ignore_eos:
            body["ignore_eos"] = True
        if self.can_report_usage:
            body["stream_options"] = {"include_usage": True}
        return self.endpoint.request("POST", self.route, body)

    async def stream(
        self, prompt: str, num_tokens: int, limit: float = _ISOLATION_SECONDS
    ) -> StreamResult:
        """One generation. Raises OSError or TimeoutError."""
        received = await exchange(self.endpoint, self.request(prompt, num_tokens), limit)
        return read_stream(received, received.sent, num_tokens)


async def find_target(
    endpoint: Endpoint,
    routes: Sequence[str] = ROUTES,
    sampling: Mapping[str, Any] | None = None,
    model: str = "",
) -> Target:
    """The first route that streams, with the fields the server takes. Raises `ConfigError` if there
    is none.

    `model` is the name in the requests; default the first that the server lists.
    """
    url = (
        f"{'https' if endpoint.is_tls else 'http'}://{endpoint.host}:{endpoint.port}{endpoint.base}"
    )
    try:
        target = Target(
            endpoint,
            routes[0],
            model or await _first_model(endpoint),
            sampling=dict(sampling or {}),
        )
        errors = []
        for route in routes:
            found, error = await _fit(replace(target, route=route))
            if not error:
                return found
            errors.append(f"{route}: {error}")
    except (OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"The server at {url} cannot be reached: {reason}.", "Start it, or give its address."
        ) from error
    raise ConfigError(
        f"The server at {url} gave no stream: {'; '.join(errors)}.", "Name a route with `--route`."
    )


async def _fit(target: Target) -> tuple[Target, str]:
    """The target without the fields that its server refuses, and the error that is left."""
    error = ""
    for candidate in (
        target,
        replace(target, can_ignore_eos=False),
        replace(target, can_ignore_eos=False, can_report_usage=False),
    ):
        error = (await candidate.stream("time", _ISOLATION_TOKENS)).error
        if not error.startswith(_REFUSED):
            return candidate, error
    return target, error


async def _first_model(endpoint: Endpoint) -> str:
    status, response = await ask(endpoint, "GET", "/v1/models")
    models = response.get("data") if status == 200 and isinstance(response, dict) else None
    return str(models[0].get("id", _NO_MODEL)) if models else _NO_MODEL


async def ask(endpoint: Endpoint, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON of a route; None where the body is not JSON, status 0 where there is no HTTP
    answer.

    Raises OSError or TimeoutError.
    """
    received = await exchange(endpoint, endpoint.request(method, path, body), _ISOLATION_SECONDS)
    try:
        response = read_response(received)
    except ValueError:
        return 0, None
    try:
        return response.status, json.loads(response.body)
    except ValueError:
        return response.status, None
