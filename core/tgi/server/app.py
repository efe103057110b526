"""The ASGI application and its routing table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tgi.server.anthropic.routes import AnthropicRoutes
from tgi.server.error_responses import InternalError, error_response, native_route_error
from tgi.server.generation.pipeline import GenerationPipeline
from tgi.server.generation.slots import ConcurrencyLimiter
from tgi.server.http.cors import CorsLayer
from tgi.server.http.errors import RouteError
from tgi.server.http.routing import PathRoute
from tgi.server.native.info import InfoRoutes
from tgi.server.native.routes import NativeRoutes
from tgi.server.openai.models import ModelRoutes
from tgi.server.openai.responses_api import ResponsesRoutes
from tgi.server.openai.routes import OpenAIRoutes
from tgi.server.openapi.swagger import DocsRoutes
from tgi.server.platforms.routes import PlatformRoutes
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.tracing import TracingLayer

__all__ = ["create_app"]

_MAX_SHOWN = 200  # characters of a path in an error message


def create_app(state: ServerState) -> ASGIApp:
    """Create the ASGI application for a started engine. This function also registers a listener, so
    that the statistics of each engine step update the metrics.
    """
    state.engine.add_stats_listener(state.metrics.observe_step)
    config = state.config
    limiter = ConcurrencyLimiter(
        config.max_concurrent_requests, config.max_concurrent_requests_per_client
    )
    pipeline = GenerationPipeline(state, limiter)
    info = InfoRoutes(state)
    paths = _generation_paths(state, pipeline, info) | _open_paths(state, info)
    _add_platform_routes(paths, state.config)
    routes = [Route(path, route) for path, route in _with_final_slashes(paths).items()]
    router = Router(routes, redirect_slashes=False, default=_not_found)
    app = ServerErrorMiddleware(router, handler=_internal_error)
    traced = app if state.span_exporter is None else TracingLayer(app, state.span_exporter)
    return CorsLayer(traced, state.config.cors_allow_origin)


def _generation_paths(
    state: ServerState, pipeline: GenerationPipeline, info: InfoRoutes
) -> dict[str, PathRoute]:
    """The routes that use the model. Every `POST` requires the API key."""
    native, openai = NativeRoutes(state, pipeline), OpenAIRoutes(state, pipeline)
    responses, anthropic = ResponsesRoutes(state, pipeline), AnthropicRoutes(state, pipeline)
    platforms = PlatformRoutes(state, pipeline, native, openai)
    guarded = partial(PathRoute, error_response=error_response, api_key=state.config.api_key)
    model = "/v2/models/{model}/versions/{version}"
    return {
        "/": guarded(post=native.generate_compatible, get=info.root),
        "/generate": guarded(post=native.generate),
        "/generate_stream": guarded(post=native.generate_stream),
        "/tokenize": guarded(post=native.tokenize),
        "/chat_tokenize": guarded(post=openai.chat_tokenize),
        "/v1/completions": guarded(post=openai.completions),
        "/v1/chat/completions": guarded(post=openai.chat_completions),
        "/v1/responses": guarded(post=responses.create),
        "/v1/messages": guarded(post=anthropic.messages, key_header="x-api-key"),
        "/v1/messages/count_tokens": guarded(post=anthropic.count_tokens, key_header="x-api-key"),
        "/invocations": guarded(post=platforms.invocations),
        "/vertex": guarded(post=platforms.vertex, error_response=native_route_error),
        "/v2": guarded(get=platforms.server_metadata),
        "/v2/health/live": guarded(get=platforms.live),
        "/v2/health/ready": guarded(get=platforms.live),
        model: guarded(get=platforms.model_metadata),
        f"{model}/ready": guarded(get=platforms.live),
        f"{model}/infer": guarded(post=platforms.infer),
    }


def _open_paths(state: ServerState, info: InfoRoutes) -> dict[str, PathRoute]:
    """The routes that report information. They require no API key."""
    docs, models = DocsRoutes(state.config.version), ModelRoutes(state.config.model_id)
    open_route = partial(PathRoute, error_response=error_response)
    return {
        "/v1/models": open_route(get=models.list),
        "/v1/models/{model:path}": open_route(get=models.retrieve),
        "/info": open_route(get=info.info),
        "/info/backend": open_route(get=info.backend),
        "/health": open_route(get=info.health, error_response=native_route_error),
        "/ping": open_route(get=info.health),
        "/metrics": open_route(get=info.metrics),
        "/docs": open_route(get=docs.redirect),
        "/docs/": open_route(get=docs.page),
        "/docs/{file}": open_route(get=docs.asset),
        "/api-doc/openapi.json": open_route(get=docs.openapi),
    }


def _add_platform_routes(paths: dict[str, PathRoute], config: ServerConfig) -> None:
    """Add the paths that Vertex AI configures for its two routes. They do not replace
    other routes.
    """
    for path, ours in ((config.aip_predict_route, "/vertex"), (config.aip_health_route, "/health")):
        if path is not None and path.startswith("/"):
            paths.setdefault(path, paths[ours])


def _with_final_slashes(paths: Mapping[str, PathRoute]) -> dict[str, PathRoute]:
    """Add each path below `/v1/` again with a slash at its end. Routes are tried in their order, so
    the usual paths come first. Paths with parameters come last, because the path of a model may
    contain slashes.
    """
    slashed = {f"{path}/": route for path, route in paths.items() if path.startswith("/v1/")}
    fixed = {path: route for path, route in paths.items() if "{" not in path}
    return fixed | slashed | dict(paths)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    path = Request(scope).url.path[:_MAX_SHOWN]
    text = f"The path `{path}` does not exist. `/docs` lists all paths."
    await error_response(scope, RouteError(404, "unknown_url", text))(scope, receive, send)


async def _internal_error(request: Request, error: Exception) -> Response:
    """The response to a fault of the server. The log contains the traceback."""
    del error
    return error_response(request.scope, InternalError())
