"""The measured route of a server, and its requests."""

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
"""All routes that can be measured, in the order in which they are tried."""

_NO_MODEL = "tgi"
_ISOLATION_TOKENS = 2
_ISOLATION_SECONDS = 120.0
_REFUSED = ("status 400", "status 422")
_UNAUTHORIZED = ("status 401", "status 403")


@final
@dataclass(frozen=True)
class Target:
    """Builds requests for one server. Fields that the server rejects are left out."""

    endpoint: Endpoint
    route: str
    model: str = _NO_MODEL
    can_ignore_eos: bool = True
    can_report_usage: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def request(self, prompt: str, num_tokens: int, truncate: int | None = None) -> bytes:
        """The bytes of a streaming request for `num_tokens` tokens. `truncate` is the maximum
        number of prompt tokens; it is for the native route.
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
        """Send one request and parse its stream. Raises OSError or TimeoutError."""
        received = await exchange(self.endpoint, self.request(prompt, num_tokens), limit)
        return read_stream(received, received.sent, num_tokens)


async def find_target(
    endpoint: Endpoint,
    routes: Sequence[str] = ROUTES,
    sampling: Mapping[str, Any] | None = None,
    model: str = "",
) -> Target:
    """Find the first route that streams, and the fields that the server accepts. Raises
    `ConfigError` if there is no such route.

    `model` is the name in the requests. The default is the first model that the server lists.
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
            if error.startswith(_UNAUTHORIZED):
                raise ConfigError(
                    f"The server at {url} rejects the API key: {error}."
                    if endpoint.headers
                    else f"The server at {url} requires an API key: {error}.",
                    "Give its key with `--api-key`.",
                )
            errors.append(f"{route}: {error}")
    except (OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"The server at {url} cannot be reached: {reason}.",
            "Start the server, or give its address.",
        ) from error
    raise ConfigError(
        f"The server at {url} has no streaming route: {'; '.join(errors)}.",
        "Choose a route with `--route`.",
    )


async def _fit(target: Target) -> tuple[Target, str]:
    """The target without the fields that the server rejects, and the remaining error or empty."""
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
    """The status and the JSON body of a route. The body is None if it is not JSON. The status is 0
    if there is no HTTP response.

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
