"""The ASGI application and its routing table."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tgi.server.anthropic.routes import AnthropicRoutes
from tgi.server.generation.pipeline import ConcurrencyLimiter, GenerationPipeline
from tgi.server.http.cors import CorsLayer
from tgi.server.http.responses import empty_response
from tgi.server.http.routing import PathRoute
from tgi.server.native.info import InfoRoutes
from tgi.server.native.routes import NativeRoutes
from tgi.server.openai.responses_api import ResponsesRoutes
from tgi.server.openai.routes import OpenAIRoutes
from tgi.server.openapi.swagger import DocsRoutes
from tgi.server.platforms.routes import PlatformRoutes
from tgi.server.state import ServerConfig, ServerState
from tgi.server.telemetry.tracing import TracingLayer

__all__ = ["create_app"]


def create_app(state: ServerState) -> ASGIApp:
    """Create the ASGI application for a started engine. This function also registers a listener, so
    that the statistics of each engine step update the metrics.
    """
    state.engine.add_stats_listener(state.metrics.observe_step)
    pipeline = GenerationPipeline(state, ConcurrencyLimiter(state.config.max_concurrent_requests))
    info = InfoRoutes(state)
    paths = _generation_paths(state, pipeline, info) | _open_paths(state, info)
    _add_platform_routes(paths, state.config)
    app = FastAPI(
        openapi_url=None,
        redirect_slashes=False,
        routes=[Route(path, route) for path, route in paths.items()],
        exception_handlers={404: _not_found},
    )
    traced = app if state.span_exporter is None else TracingLayer(app, state.span_exporter)
    return CorsLayer(traced, state.config.cors_allow_origin)


def _generation_paths(
    state: ServerState, pipeline: GenerationPipeline, info: InfoRoutes
) -> dict[str, PathRoute]:
    """The routes that use the model. Every `POST` requires the API key."""
    native, openai = NativeRoutes(state, pipeline), OpenAIRoutes(state, pipeline)
    responses, anthropic = ResponsesRoutes(state, pipeline), AnthropicRoutes(state, pipeline)
    platforms = PlatformRoutes(state, pipeline, native, openai)
    key = state.config.api_key
    model = "/v2/models/{model}/versions/{version}"
    return {
        "/": PathRoute(post=native.generate_compatible, get=info.health, api_key=key),
        "/generate": PathRoute(post=native.generate, api_key=key),
        "/generate_stream": PathRoute(post=native.generate_stream, api_key=key),
        "/tokenize": PathRoute(post=native.tokenize, api_key=key),
        "/chat_tokenize": PathRoute(post=openai.chat_tokenize, api_key=key),
        "/v1/completions": PathRoute(post=openai.completions, api_key=key),
        "/v1/chat/completions": PathRoute(post=openai.chat_completions, api_key=key),
        "/v1/responses": PathRoute(post=responses.create, api_key=key),
        "/v1/messages": PathRoute(post=anthropic.messages, api_key=key, key_header="x-api-key"),
        "/v1/messages/count_tokens": PathRoute(
            post=anthropic.count_tokens, api_key=key, key_header="x-api-key"
        ),
        "/invocations": PathRoute(post=platforms.invocations, api_key=key),
        "/vertex": PathRoute(post=platforms.vertex, api_key=key),
        "/v2": PathRoute(get=platforms.server_metadata),
        "/v2/health/live": PathRoute(get=platforms.live),
        "/v2/health/ready": PathRoute(get=platforms.live),
        model: PathRoute(get=platforms.model_metadata),
        f"{model}/ready": PathRoute(get=platforms.live),
        f"{model}/infer": PathRoute(post=platforms.infer, api_key=key),
    }


def _open_paths(state: ServerState, info: InfoRoutes) -> dict[str, PathRoute]:
    """The routes that report information. They require no API key."""
    docs = DocsRoutes(state.config.version)
    return {
        "/v1/models": PathRoute(get=info.models),
        "/info": PathRoute(get=info.info),
        "/info/backend": PathRoute(get=info.backend),
        "/health": PathRoute(get=info.health),
        "/ping": PathRoute(get=info.health),
        "/metrics": PathRoute(get=info.metrics),
        "/docs": PathRoute(get=docs.redirect),
        "/docs/": PathRoute(get=docs.page),
        "/docs/{file}": PathRoute(get=docs.asset),
        "/api-doc/openapi.json": PathRoute(get=docs.openapi),
    }


def _add_platform_routes(paths: dict[str, PathRoute], config: ServerConfig) -> None:
    """Add the paths that Vertex AI configures for its two routes. They do not replace
    other routes.
    """
    for path, ours in ((config.aip_predict_route, "/vertex"), (config.aip_health_route, "/health")):
        if path is not None and path.startswith("/"):
            paths.setdefault(path, paths[ours])


async def _not_found(request: Request, error: Exception) -> Response:
    del request, error
    return empty_response(404)
